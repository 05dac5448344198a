"""Laptops, phones, headphones, monitors, keyboards and mice, drawn from their attributes."""

from quartet.demo.drawing.ink import (
    COLOURS,
    Product,
    accent,
    colour_of,
    darker,
    dot,
    group,
    lighter,
    line,
    mix,
    oval,
    rect,
    shadow,
    shape,
    words,
    zoom,
)

_CASES = {
    "Lenovo": "black",
    "Halden": "slate",
    "Orrin": "silver",
    "Kestrel Works": "charcoal",
    "Tarn": "blue",
    "Quillon": "graphite",
}


def laptop(product: Product) -> tuple[str, str]:
    case = COLOURS[_CASES[product["brand"]]]
    body = (
        rect(78, 96, 244, 168, darker(case, 0.2), 12)
        + rect(88, 106, 224, 146, "#11151c", 4)
        + _scene(product, 88, 106, 224, 146)
        + shape("M52 268H348L366 292Q366 300 356 300H44Q34 300 34 292Z", case)
        + shape("M52 268H348L352 273H48Z", lighter(case, 0.35))
        + rect(168, 288, 64, 5, darker(case, 0.35), 2.5)
    )
    size = 0.72 + product["attrs"]["screen_inch"] * 0.02
    return case, shadow(165 * size, 200 + 102 * size) + zoom(body, size)


def laptop_side(product: Product) -> tuple[str, str]:
    """The open laptop seen from its left: the view that shows how thin it is."""
    case = COLOURS[_CASES[product["brand"]]]
    body = (
        shape("M284 262L330 92Q333 84 340 87Q345 90 343 97L297 266Z", darker(case, 0.15))
        + shape("M282 261L328 91L331 90L287 263Z", "#5c9bd1")
        + shape("M46 266Q46 260 54 260H292Q302 260 302 268L296 280Q294 284 288 284H62Q50 282 46 266Z", case)
        + rect(52, 259, 240, 4, lighter(case, 0.4), 2)
        + rect(196, 268, 16, 6, "#0f1115", 3)
        + rect(220, 268, 16, 6, "#0f1115", 3)
        + rect(244, 267, 26, 8, "#0f1115", 1)
        + rect(66, 284, 26, 5, darker(case, 0.5), 2)
        + rect(256, 284, 26, 5, darker(case, 0.5), 2)
    )
    return case, shadow(150, 297) + body


def monitor(product: Product) -> tuple[str, str]:
    attrs, tags = product["attrs"], product["tags"]
    wide, high = (int(n) for n in attrs["resolution"].split("x"))
    w = 250 if "portable" in tags else 276 if wide / high < 2 else 330
    h = w * high / wide
    x, y = 200 - w / 2, 172 - h / 2
    frame = "#23262c"
    screen = rect(x - 8, y - 8, w + 16, h + 16, frame, 9) + _scene(product, x, y, w, h)
    if attrs["curved"]:
        left, right, top, low = x - 8, x + w + 8, y - 8, y + h + 8
        bow = f"M{left:g} {top:g}Q200 {y + 14:g} {right:g} {top:g}V{low:g}Q200 {y + h - 14:g} {left:g} {low:g}Z"
        screen = f'<clipPath id="c"><path d="{bow}"/></clipPath><g clip-path="url(#c)">{screen}</g>'
        screen += line(bow, frame, 7)
    if "photo" in tags:
        roof = f"M{x - 8:g} {y - 8:g}L{x - 30:g} {y - 26:g}H{x + w + 30:g}L{x + w + 8:g} {y - 8:g}Z"
        screen += shape(roof, "#16181c")
        for side, edge in ((x - 8, x - 30), (x + w + 8, x + w + 30)):
            screen += shape(f"M{side:g} {y - 8:g}L{edge:g} {y - 26:g}V{y + h - 24:g}L{side:g} {y + h:g}Z", "#2d3138")
    return accent(product), shadow(110 if "portable" in tags else 90, 322) + _stand(product, y + h) + screen


def _stand(product: Product, bottom: float) -> str:
    if "portable" in product["tags"]:
        return shape(f"M96 {bottom:g}H304L336 320H64Z", "#4b515a") + shape("M64 316H336V322H64Z", "#33383f")
    metal = "#3a3f47" if "gaming" in product["tags"] else "#aeb6be"
    foot = (
        line("M200 306L120 318M200 306L280 318", metal, 11)
        if "gaming" in product["tags"]
        else rect(128, 309, 144, 12, metal, 6)
    )
    return rect(186, bottom, 28, 312 - bottom, darker(metal, 0.12)) + foot


def _scene(product: Product, x: float, y: float, w: float, h: float) -> str:
    """The screen's content by the machine's purpose: code, a game, a photograph, or a document."""
    tags, hue = product["tags"], accent(product, 0.55, 0.5)
    if "developer" in tags or "linux" in tags:
        inside = _code(hue)
    elif "gaming" in tags:
        inside = _game(hue)
    elif "photo" in tags or "creative" in tags:
        inside = _photograph(hue)
    else:
        inside = _desktop(hue)
    return group(inside, f"translate({x:g} {y:g}) scale({w / 224:.4g} {h / 146:.4g})")


def _code(hue: str) -> str:
    rows = "".join(
        line(f"M{left} {top}h{length}", ink, 5)
        for left, top, length, ink in (
            (16, 20, 44, hue),
            (70, 20, 60, "#8fa1b5"),
            (30, 36, 30, "#e6b455"),
            (70, 36, 86, "#8fa1b5"),
            (30, 52, 70, "#7fc8a9"),
            (44, 68, 52, "#8fa1b5"),
            (106, 68, 40, hue),
            (44, 84, 90, "#8fa1b5"),
            (30, 100, 24, "#e6b455"),
            (16, 116, 34, hue),
        )
    )
    return rect(0, 0, 224, 146, "#1a2029") + rect(168, 0, 56, 146, "#242c38") + rows


def _game(hue: str) -> str:
    return (
        rect(0, 0, 224, 146, mix(hue, "#1a1033", 0.55))
        + dot(150, 62, 30, mix(hue, "#ffd28a", 0.75))
        + shape("M0 110L52 52L92 96L128 70L176 112L224 78V146H0Z", mix(hue, "#140c2a", 0.72))
        + shape("M0 128L70 96L140 132L200 106L224 118V146H0Z", "#120c22")
        + rect(12, 12, 56, 6, "#ff6b5e", 3)
        + rect(12, 22, 38, 6, "#6fd3ff", 3)
    )


def _photograph(hue: str) -> str:
    swatches = "".join(
        rect(186, 12 + 25 * i, 26, 20, ink, 3)
        for i, ink in enumerate(("#d9534f", "#e7a33c", "#5aa469", "#3f78c4", "#7d5ba6"))
    )
    return (
        rect(0, 0, 224, 146, "#22252a")
        + rect(12, 12, 162, 122, "#9fd0ea", 2)
        + dot(132, 44, 15, "#fff3c4")
        + shape("M12 102L62 52L98 92L126 70L174 114V134H12Z", mix(hue, "#335c4b", 0.6))
        + shape("M12 118Q80 92 174 124V134H12Z", "#7fb069")
        + swatches
    )


def _desktop(hue: str) -> str:
    rows = "".join(
        line(f"M52 {top}h{length}", "#b9c3cd", 4) for top, length in ((50, 70), (62, 58), (74, 66), (86, 40))
    )
    bars = "".join(rect(146 + 16 * i, 104 - high, 10, high, hue, 2) for i, high in enumerate((22, 36, 50)))
    return (
        rect(0, 0, 224, 146, lighter(hue, 0.35))
        + shape("M0 146V96Q70 60 130 100T224 84V146Z", lighter(hue, 0.12))
        + rect(38, 24, 100, 80, "#fff", 4)
        + rect(38, 24, 100, 12, hue, 4)
        + rect(134, 44, 70, 70, "#fff", 4)
        + bars
        + rows
        + rect(74, 128, 76, 10, "#fff", 5, 'opacity=".8"')
    )


def phone(product: Product) -> tuple[str, str]:
    case = colour_of(product, COLOURS["black"])
    tags = product["tags"]
    edge = darker(case, 0.28)
    back = rect(0, 0, 128, 264, edge, 24) + rect(3, 3, 122, 258, case, 21) + _cameras(tags)
    front = rect(0, 0, 128, 264, edge, 24) + rect(6, 6, 116, 252, "#12151b", 18) + _phone_screen(product)
    if "rugged" in tags:
        bumpers = "".join(rect(x, y, 30, 44, "#2a2c31", 12) for x in (-6, 104) for y in (-6, 226))
        back, front = bumpers + back, bumpers + front
    size = max(0.8, product["attrs"]["screen_inch"] / 6.5)
    pair = group(back, "translate(88 58) rotate(-7 64 132)") + group(front, "translate(184 72) rotate(5 64 132)")
    return case, shadow(118 * size, 205 + 146 * size) + zoom(pair, size)


def _cameras(tags: list[str]) -> str:
    lens = "#0f1217"
    if "camera" in tags and "photo" in tags:
        return (
            dot(64, 62, 42, "#1a1d23") + dot(64, 62, 30, lens) + dot(64, 62, 16, "#31537a") + dot(56, 54, 5, "#cfe6ff")
        )
    count = 3 if "camera" in tags else 1 if "minimal" in tags or "budget" in tags else 2
    eyes = "".join(dot(32, 34 + 32 * i, 12, lens) + dot(29, 31 + 32 * i, 4, "#5b7ea6") for i in range(count))
    return rect(14, 16, 36, 4 + 32 * count, "#000", 18, 'opacity=".22"') + eyes


def _phone_screen(product: Product) -> str:
    if "e-paper" in product["tags"]:
        rows = "".join(line(f"M24 {y}h{w}", "#6d6a62", 4) for y, w in ((112, 78), (126, 66), (140, 80), (154, 52)))
        return (
            rect(10, 10, 108, 244, "#e9e6dc", 14) + words(24, 78, "10:08", 30, "#3a3833", 'font-family="serif"') + rows
        )
    hue = accent(product, 0.6, 0.55)
    icons = "".join(
        rect(22 + 30 * (i % 3), 168 + 30 * (i // 3), 22, 22, ink, 7)
        for i, ink in enumerate(("#ffffff", "#ffd166", "#8ecae6", "#f28482", "#ffffff", "#a7c957"))
    )
    return (
        rect(10, 10, 108, 244, hue, 15)
        + shape("M10 150Q60 96 118 138V239Q118 254 103 254H25Q10 254 10 239Z", darker(hue, 0.35))
        + rect(48, 18, 32, 8, "#12151b", 4)
        + words(64, 82, "10:08", 30, "#fff", 'text-anchor="middle" font-family="sans-serif"')
        + icons
    )


def headphones(product: Product) -> tuple[str, str]:
    case = colour_of(product, COLOURS["black"])
    attrs = product["attrs"]
    if attrs["form"] == "in-ear":
        return case, _buds(case) if attrs["wireless"] else _stage_monitors(case)
    over = attrs["form"] == "over-ear"
    thick, half, tall = (24, 42, 124) if over else (14, 36, 84)
    cups = ""
    for x in (96, 304):
        inward = 18 if x < 200 else -18
        cups += rect(x - half / 2 + inward, 232 - tall / 2, half, tall, "#3a3d44", half / 2)
        cups += rect(x - half / 2, 226 - tall / 2, half, tall + 12, case, half / 2)
        cups += rect(x - 4, 232 - tall / 3, 8, tall / 1.5, darker(case, 0.25), 4)
    band = line("M96 220V190A104 104 0 0 1 304 190V220", darker(case, 0.12), thick)
    pad = line("M128 128A104 104 0 0 1 272 128", lighter(case, 0.22), thick / 2)
    return case, shadow(128) + band + pad + cups + _extras(product, tall)


def _extras(product: Product, tall: float) -> str:
    tags = product["tags"]
    extra = ""
    if "microphone" in tags:
        extra += line(f"M96 {220 + tall / 2:g}Q110 318 178 312", "#3a3d44", 7)
        extra += rect(172, 302, 32, 18, "#24262b", 9)
    if "children" in tags:
        star = "M304 212l6 13 14 2-10 10 2 14-12-7-12 7 2-14-10-10 14-2z"
        extra += shape(star, "#ee7c67") + group(shape(star, "#1f8884"), "translate(-208 0)")
    if not product["attrs"]["wireless"]:
        extra += line(f"M96 {238 + tall / 2:g}Q96 344 200 332T330 344", "#3a3d44", 5)
    return extra


def _buds(case: str) -> str:
    edge = darker(case, 0.16)
    bud = (
        rect(-11, 0, 22, 84, case, 11)
        + rect(3, 8, 5, 66, edge, 2.5)
        + oval(4, 0, 33, 29, case)
        + oval(26, 4, 15, 20, edge)
        + oval(36, 6, 10, 15, "#5a5f68")
    )
    box = (
        rect(124, 212, 152, 116, edge, 40)
        + rect(128, 212, 144, 112, case, 38)
        + line("M128 252H272", edge, 4)
        + dot(200, 278, 4, "#4cd07d")
    )
    mirrored = group(bud, "translate(254 106) rotate(12) scale(-1 1)")
    return shadow(86, 334) + box + group(bud, "translate(146 106) rotate(-12)") + mirrored


def _stage_monitors(case: str) -> str:
    shell = (
        line("M-20 -30C-52 -80 -4 -112 16 -78C34 -46 34 60 10 150", "#4a4f57", 6)
        + shape("M-38 -28C-38 -60 36 -60 38 -18C40 20 8 46 -14 40C-34 34 -38 4 -38 -28Z", case)
        + oval(-4, -14, 18, 16, darker(case, 0.45))
        + dot(-8, -18, 6, "#e8b84a")
        + rect(-4, 34, 20, 24, darker(case, 0.2), 6, 'transform="rotate(-20)"')
        + oval(18, 52, 13, 9, "#4a4f57", 'transform="rotate(-20 18 52)"')
    )
    pair = group(shell, "translate(132 168)") + group(shell, "translate(268 168) scale(-1 1)")
    return (
        shadow(100, 346) + pair + line("M142 318Q200 352 258 318", "#4a4f57", 6) + rect(188, 326, 24, 18, "#4a4f57", 5)
    )


def keyboard(product: Product) -> tuple[str, str]:
    case = colour_of(product, COLOURS["black"])
    layout = product["attrs"]["layout"]
    if layout == "split":
        half = rect(0, 0, 142, 122, darker(case, 0.1), 14) + _keys(product, 9, 10, 124, 4)
        right = group(half, "translate(356 140) rotate(9) translate(-142 0)")
        return case, shadow(160, 286) + group(half, "translate(44 140) rotate(-9)") + right
    width = {"full-size": 348, "tenkeyless": 300, "75-percent": 266, "60-percent": 248}[layout]
    rows = 4 if layout == "60-percent" else 5
    x, height = 200 - width / 2, 34 + rows * 24.5
    y = 200 - height / 2
    body = rect(x, y + 5, width, height, darker(case, 0.35), 14) + rect(x, y, width, height, case, 14)
    knob = dot(x + width - 24, y + 22, 10, "#c9a34e") if layout == "75-percent" else ""
    cable = "" if product["attrs"]["wireless"] else line(f"M200 {y:g}C200 90 250 110 262 60", "#33363c", 7)
    inner = width - 20 if layout != "full-size" else width - 104
    pad = _keys(product, x + width - 84, y + 12, 74, rows) if layout == "full-size" else ""
    return case, shadow(width / 2, y + height + 14) + cable + body + _keys(
        product, x + 10, y + 12, inner, rows
    ) + pad + knob


def _keys(product: Product, x: float, y: float, width: float, rows: int) -> str:
    """Rows of keys as dashed strokes: one path per row keeps the file small."""
    case = colour_of(product, COLOURS["black"])
    top = darker(case, 0.12) if case in (COLOURS["white"], COLOURS["cream"], COLOURS["silver"]) else lighter(case, 0.24)
    drawn = ""
    for row in range(rows):
        level = y + 10 + row * 24.5
        ink = mix(top, accent(product, 0.7, 0.55), 0.55) if product["attrs"]["backlit"] and row % 2 else top
        last = row == rows - 1
        dashes = f"38 5 {width * 0.42:.0f} 5 19.5 5" if last and width > 130 else "19.5 5"
        drawn += (
            f'<path d="M{x:g} {level:g}h{width:g}" stroke="{ink}" stroke-width="19.5" stroke-dasharray="{dashes}"/>'
        )
    return drawn


def mouse(product: Product) -> tuple[str, str]:
    case = colour_of(product, COLOURS["graphite"])
    form = product["attrs"]["shape"]
    body = _MICE[form](case)
    if form == "left-handed":
        body = group(_upright(case), "translate(400 0) scale(-1 1)")
    cable = "" if product["attrs"]["wireless"] else line("M200 96C200 60 236 66 240 22", darker(case, 0.2), 8)
    return case, shadow(92, 342) + cable + body


def _symmetrical(case: str) -> str:
    return (
        rect(124, 76, 152, 258, darker(case, 0.3), 76)
        + rect(128, 76, 144, 250, case, 72)
        + line("M200 78V176M130 182Q200 160 270 182", darker(case, 0.35), 4)
        + rect(189, 104, 22, 52, darker(case, 0.55), 11)
        + rect(195, 112, 10, 34, lighter(case, 0.4), 5)
        + oval(200, 268, 30, 36, lighter(case, 0.12))
    )


def _right_handed(case: str) -> str:
    return (
        shape(
            "M102 250C84 214 116 196 120 150C124 92 168 66 208 70C262 74 288 130 286 206"
            "C284 292 254 336 196 336C150 336 122 290 102 250Z",
            case,
        )
        + shape("M102 250C84 214 116 196 120 150C136 190 140 240 166 318C138 302 118 280 102 250Z", darker(case, 0.28))
        + line("M204 72L200 172M126 176Q206 150 286 186", darker(case, 0.35), 4)
        + rect(192, 94, 22, 58, darker(case, 0.55), 11)
        + "".join(line(f"M196 {y}h14", "#cfd4da", 3) for y in (106, 116, 126, 136))
        + rect(118, 214, 12, 44, "#cfd4da", 6, 'transform="rotate(-12 124 236)"')
    )


def _upright(case: str) -> str:
    return (
        shape(
            "M104 326C92 250 132 84 202 66C256 54 290 120 296 206"
            "C300 262 304 300 300 326Q298 336 286 336H116Q106 336 104 326Z",
            case,
        )
        + shape("M104 326C92 250 132 84 202 66C176 130 158 240 170 336H116Q106 336 104 326Z", darker(case, 0.3))
        + shape("M92 318Q120 286 176 300L178 336H100Q86 334 92 318Z", darker(case, 0.45))
        + line("M226 70C228 120 240 170 298 214M196 214Q244 198 296 236", darker(case, 0.35), 4)
        + rect(238, 96, 18, 48, lighter(case, 0.5), 9, 'transform="rotate(-18 247 120)"')
        + rect(136, 204, 12, 40, lighter(case, 0.45), 6, 'transform="rotate(12 142 224)"')
    )


def _trackball(case: str) -> str:
    return (
        shape(
            "M96 226C92 150 128 82 200 78C272 76 306 150 304 230C302 300 262 336 204 336C140 336 100 296 96 226Z", case
        )
        + line("M216 80L210 196M212 196Q262 176 304 206", darker(case, 0.4), 4)
        + rect(224, 104, 20, 50, lighter(case, 0.35), 10)
        + dot(142, 206, 50, darker(case, 0.5))
        + dot(142, 206, 42, "#c53b3b")
        + oval(128, 190, 14, 10, "#f3a19a")
    )


_MICE = {
    "symmetrical": _symmetrical,
    "right-handed": _right_handed,
    "left-handed": _upright,
    "vertical": _upright,
    "trackball": _trackball,
}
