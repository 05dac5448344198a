"""The demo catalog's pictures, drawn by us from the products' own data.

`python -m quartet.demo.drawing` writes them anew into `demo/images/`; a test holds the committed files to it.
"""

from quartet.demo.drawing import devices, home, wear
from quartet.demo.drawing.ink import Product, picture

_ARTISTS = {
    "laptops": devices.laptop,
    "phones": devices.phone,
    "headphones": devices.headphones,
    "monitors": devices.monitor,
    "keyboards": devices.keyboard,
    "mice": devices.mouse,
    "shirts": wear.shirt,
    "shoes": wear.shoe,
    "bags": wear.bag,
    "books": home.book,
    "coffee": home.coffee,
    "kitchen": home.kitchen,
}


def draw(product: Product) -> dict[str, str]:
    """File name → SVG text for every picture the product names; the same text at every run."""
    pictures = {}
    for image in product["images"]:
        side_view = product["category"] == "laptops" and not image["isPrimary"]
        artist = devices.laptop_side if side_view else _ARTISTS[product["category"]]
        backdrop, body = artist(product)
        name = image["url"].removeprefix("/images/")
        pictures[name] = picture(f"{product['name']}: {image['alt']}", backdrop, body)
    return pictures
