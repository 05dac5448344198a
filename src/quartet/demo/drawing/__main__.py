"""Draws every picture of the demo catalog into `demo/images/`."""

from quartet.demo.drawing import draw
from quartet.demo.model import IMAGES, load


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for product in load().products:
        for name, svg in draw(product).items():
            (IMAGES / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
