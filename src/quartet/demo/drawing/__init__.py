"""The demo catalog's images, drawn from the products' data.

`python -m quartet.demo.drawing` regenerates them in `demo/images/`; a test compares the committed files with it.
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
    """SVG text by file name for every image that the product names; the same text in every run."""
    pictures = {}
    for image in product["images"]:
        side_view = product["category"] == "laptops" and not image["isPrimary"]
        artist = devices.laptop_side if side_view else _ARTISTS[product["category"]]
        backdrop, body = artist(product)
        name = image["url"].removeprefix("/images/")
        pictures[name] = picture(f"{product['name']}: {image['alt']}", backdrop, body)
    return pictures
