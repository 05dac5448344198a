"""Books, coffee and kitchen things, drawn from their kind, title and colour."""

from quartet.demo.drawing.ink import (
    Product,
    accent,
    colour_of,
    darker,
    dot,
    is_pale,
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

_SERIF = 'text-anchor="middle" font-family="Georgia,serif"'
_PLAIN = 'text-anchor="middle" font-family="Helvetica,Arial,sans-serif"'


def _lines(title: str, width: int) -> list[str]:
    """The title broken into lines of at most `width` letters where its words allow."""
    rows = [""]
    for word in title.split():
        if rows[-1] and len(rows[-1]) + 1 + len(word) > width:
            rows.append("")
        rows[-1] = f"{rows[-1]} {word}".strip()
    return rows


def book(product: Product) -> tuple[str, str]:
    cover = accent(product, 0.42, 0.36)
    pale, attrs = lighter(cover, 0.82), product["attrs"]
    rows = _lines(product["name"], 13)
    size = 27 if max(map(len, rows)) < 12 else 23
    title = "".join(words(206, 112 + 30 * i, row, size, pale, _SERIF) for i, row in enumerate(rows))
    bound = attrs["format"] == "hardback"
    pages = rect(102, 54, 208, 290, "#f1ead9", 3) + line("M304 60V338M308 60V338", "#d8cfba", 1)
    spine = rect(98, 48, 18 if bound else 8, 298, darker(cover, 0.35), 3)
    thick = rect(98, 48, 214 if bound else 206, 298, cover, 4)
    frame = rect(124, 62, 164, 270, "none", 2, f'stroke="{mix(cover, pale, 0.5)}" stroke-width="2"')
    author = words(206, 318, attrs["author"], 13, mix(cover, pale, 0.8), _PLAIN)
    emblem = zoom(_EMBLEMS[attrs["genre"]](mix(cover, "#ffd27a", 0.75), cover), 0.9, 206, 240)
    return cover, shadow(112, 348) + pages + thick + spine + frame + title + emblem + author


def _lighthouse(ink: str, cover: str) -> str:
    return (
        shape("M190 290L196 212H216L222 290Z", ink)
        + rect(192, 194, 28, 18, ink)
        + shape("M190 194L206 178L222 194Z", ink)
        + shape("M190 203L136 190V216ZM222 203L276 190V216Z", ink, 'opacity=".35"')
        + line("M196 232H216M194 258H218", cover, 6)
    )


def _street_lamp(ink: str, cover: str) -> str:
    return (
        dot(206, 212, 36, ink, 'opacity=".25"')
        + line("M206 292V236M188 292H224", ink, 6)
        + shape("M190 196H222L216 236H196Z", ink)
        + line("M186 194H226", ink, 6)
        + line("M206 208V228", cover, 4)
    )


def _queue(ink: str, _cover: str) -> str:
    return "".join(dot(146 + 30 * i, 226, 10, ink) + rect(136 + 30 * i, 240, 20, 42, ink, 9) for i in range(5))


def _cylinder(ink: str, _cover: str) -> str:
    drums = "".join(rect(160, 212 + 26 * i, 66, 20, ink, 9) for i in range(3))
    return drums + shape("M252 218Q266 238 252 250Q238 238 252 218Z", ink) + rect(244, 252, 16, 34, ink, 3)


def _letter(ink: str, _cover: str) -> str:
    return words(206, 284, "Aa", 90, ink, _SERIF)


def _loaf(ink: str, cover: str) -> str:
    return shape("M140 282Q124 226 176 216Q206 208 236 216Q288 226 272 282Z", ink) + line(
        "M168 228L184 260M198 222L214 256M228 224L244 258", cover, 6
    )


def _knot(ink: str, _cover: str) -> str:
    return line("M130 270C190 290 240 250 206 222C176 200 162 250 204 264C240 276 262 250 284 244", ink, 11)


def _clock(ink: str, cover: str) -> str:
    return dot(206, 246, 44, ink) + dot(206, 246, 36, cover) + line("M206 246V220M206 246L226 258", ink, 6)


def _moth(ink: str, cover: str) -> str:
    return (
        shape(
            "M206 236C170 196 130 206 136 236C140 266 180 268 206 248C232 268 272 266 276 236C282 206 242 196 206 236Z",
            ink,
        )
        + shape("M206 246Q166 262 176 288Q196 290 206 252Q216 290 236 288Q246 262 206 246Z", ink, 'opacity=".7"')
        + dot(164, 234, 8, cover)
        + dot(248, 234, 8, cover)
        + line("M206 226V270M206 226Q200 206 190 202M206 226Q212 206 222 202", cover, 4)
    )


_EMBLEMS = {
    "fiction": _street_lamp,
    "history": _queue,
    "computing": _cylinder,
    "design": _letter,
    "cooking": _loaf,
    "practical": _knot,
    "crime": _clock,
    "nature": _moth,
    "children": _lighthouse,
}


def coffee(product: Product) -> tuple[str, str]:
    roast = product["attrs"]["roast"]
    bag = {"light": "#c9a57b", "medium": "#8d6547", "dark": "#4a352b"}[roast]
    label, ink = accent(product, 0.5, 0.5), "#3b2a20"
    beans = {"light": 1, "medium": 2, "dark": 3}[roast]
    marks = "".join(
        oval(172 + 28 * i, 300, 9, 12, ink if i < beans else "#d9cdb8", f'transform="rotate(20 {172 + 28 * i} 300)"')
        for i in range(3)
    )
    rows = _lines(product["name"], 14)
    name = "".join(words(200, 214 + 22 * i, row, 20, ink, _SERIF) for i, row in enumerate(rows))
    sealed = (
        shape("M116 104L128 60H272L284 104Z", darker(bag, 0.12))
        + rect(124, 50, 152, 20, darker(bag, 0.3), 4)
        + shape("M116 104H284L296 332Q296 344 284 344H116Q104 344 104 332Z", bag)
        + shape(
            "M116 104L128 130L118 344H116Q104 344 104 332ZM284 104L272 130L282 344H284Q296 344 296 332Z",
            darker(bag, 0.18),
        )
        + dot(200, 104, 8, darker(bag, 0.4))
    )
    tag = rect(132, 134, 136, 190, "#f7f1e4", 6) + rect(132, 134, 136, 42, label, 6)
    brand = words(200, 161, product["brand"].upper(), 15, "#fff", _PLAIN + ' letter-spacing="2"')
    origin = words(200, 270, product["attrs"]["origin"], 13, "#7a6a58", _PLAIN)
    return label, shadow(108, 346) + sealed + tag + brand + name + origin + marks


def kitchen(product: Product) -> tuple[str, str]:
    kind = product["attrs"]["kind"]
    ink = colour_of(product, _MATERIALS.get(kind, "#aeb6bd"))
    return ink, _KITCHEN[kind](ink)


_MATERIALS = {"frying-pan": "#3a3d42", "board": "#d2a66d", "knife": "#8fa0ad", "grinder": "#7a5238", "press": "#b3bac1"}


def _frying_pan(ink: str) -> str:
    return (
        shadow(140, 346)
        + line("M268 138L362 44", darker(ink, 0.1), 24)
        + dot(356, 50, 5, "#d9dde1")
        + dot(178, 222, 118, darker(ink, 0.3))
        + dot(178, 222, 108, ink)
        + dot(178, 222, 90, lighter(ink, 0.12))
        + line("M112 188A78 78 0 0 1 166 146", lighter(ink, 0.4), 7)
        + dot(262, 144, 4, "#d9dde1")
        + dot(274, 158, 4, "#d9dde1")
    )


def _saucepan(ink: str) -> str:
    return (
        shadow(130, 318)
        + rect(250, 206, 132, 20, "#3a3d42", 10)
        + shape("M66 188H270V288Q270 312 246 312H90Q66 312 66 288Z", ink)
        + shape("M66 188H108V312H90Q66 312 66 288Z", lighter(ink, 0.35))
        + line("M236 212V272", darker(ink, 0.2), 4, 'stroke-dasharray="2 18"')
        + shape("M60 186Q64 140 168 138T276 186Z", lighter(ink, 0.18))
        + rect(56, 182, 224, 12, darker(ink, 0.2), 6)
        + rect(150, 112, 36, 28, "#3a3d42", 10)
    )


def _casserole(ink: str) -> str:
    dark = darker(ink, 0.22)
    return (
        shadow(140, 324)
        + rect(40, 206, 320, 26, dark, 13)
        + shape("M70 196H330V276Q330 320 286 320H114Q70 320 70 276Z", ink)
        + shape("M70 196H112V320Q70 318 70 276Z", lighter(ink, 0.2))
        + shape("M64 192Q74 128 200 124T336 192Z", ink)
        + line("M112 168Q150 144 200 142", lighter(ink, 0.45), 8)
        + rect(60, 186, 280, 14, dark, 7)
        + rect(178, 98, 44, 28, "#d7b262" if not is_pale(ink) else "#8b9199", 10)
    )


def _knife(_ink: str) -> str:
    blade = (
        shape("M36 214Q96 158 252 160V226H150Q84 232 36 214Z", "#d5dce2")
        + shape("M36 214Q84 232 150 226H252V206Q120 218 36 214Z", "#f1f4f6")
        + rect(248, 156, 18, 74, "#7b858e", 3)
        + shape("M264 160H356Q376 162 374 188Q372 216 350 212Q320 204 264 222Z", "#a8743f")
        + "".join(dot(x, 188, 5, "#e9d3a4") for x in (286, 316, 346))
    )
    return oval(206, 292, 150, 10, "#000", 'opacity=".12"') + f'<g transform="rotate(-14 200 200)">{blade}</g>'


def _board(ink: str) -> str:
    grain = "".join(
        rect(66 + 45 * (i % 6), 112 + 46 * (i // 6), 43, 44, lighter(ink, 0.06 + 0.14 * (i * 5 % 3)), 2)
        for i in range(24)
    )
    return (
        shadow(150, 330)
        + rect(54, 100, 292, 218, darker(ink, 0.35), 18)
        + rect(54, 92, 292, 216, ink, 18)
        + grain
        + rect(74, 112, 252, 176, "none", 12, f'stroke="{darker(ink, 0.3)}" stroke-width="6"')
    )


def _kettle(ink: str) -> str:
    grip = "#a8743f" if not is_pale(ink) else "#c08f58"
    return (
        shadow(126, 342)
        + line("M126 276C62 270 84 196 58 142Q54 130 40 132", darker(ink, 0.12), 17)
        + line("M262 138Q346 126 344 196T300 286", grip, 17)
        + shape("M132 150H256L288 306Q290 322 274 322H114Q98 322 100 306Z", ink)
        + shape("M132 150H164L142 322H114Q98 322 100 306Z", lighter(ink, 0.22))
        + shape("M132 150Q140 116 194 114T256 150Z", darker(ink, 0.12))
        + rect(180, 92, 28, 26, grip, 9)
        + rect(92, 322, 204, 18, "#2b2e33", 7)
        + rect(222, 326, 44, 10, "#7fe0c8", 3)
    )


def _press(ink: str) -> str:
    return (
        shadow(104, 346)
        + line("M262 146Q340 146 336 226T262 290", "#3a3d42", 18)
        + line("M196 108V52", "#8b9199", 6)
        + dot(196, 46, 15, "#3a3d42")
        + shape("M130 122H262V326Q262 342 246 342H146Q130 342 130 326Z", ink)
        + rect(142, 132, 28, 200, lighter(ink, 0.5), 14)
        + shape("M120 124L142 96H250Q268 100 268 124Z", darker(ink, 0.2))
        + line("M130 156H262M130 308H262", darker(ink, 0.2), 4)
    )


def _grinder(ink: str) -> str:
    return (
        shadow(86, 346)
        + line("M200 82V60H312", "#8b9199", 11)
        + rect(296, 40, 34, 42, ink, 14)
        + rect(158, 78, 84, 22, "#3a3d42", 8)
        + rect(150, 98, 100, 112, "#c3c9cf", 8)
        + rect(162, 104, 18, 100, "#e6eaed", 8)
        + rect(146, 208, 108, 136, ink, 12)
        + line("M170 216V334M192 216V334M230 216V334", darker(ink, 0.25), 3)
        + rect(142, 202, 116, 14, "#3a3d42", 6)
    )


def _scale(ink: str) -> str:
    return (
        shadow(150, 306)
        + shape("M84 176H316L356 276V290Q356 302 344 302H56Q44 302 44 290V276Z", darker(ink, 0.35))
        + shape("M84 176H316L356 278H44Z", ink)
        + shape("M104 184H296L312 226H88Z", lighter(ink, 0.22))
        + rect(132, 240, 136, 30, "#10221f", 6)
        + words(200, 263, "18.0 g  00:28", 15, "#7fe0c8", 'text-anchor="middle" font-family="monospace"')
        + shape("M152 118H246L236 196H162Z", "#f4f1ea")
        + line("M246 134Q276 136 270 158T242 172", "#f4f1ea", 9)
        + oval(199, 118, 47, 9, "#5d3f2c")
    )


def _bowl(ink: str) -> str:
    return (
        shadow(110, 338)
        + shape("M50 164Q58 326 158 334H242Q342 326 350 164Z", ink)
        + shape("M50 164Q58 326 158 334H176Q96 300 92 164Z", lighter(ink, 0.25))
        + oval(200, 164, 150, 40, darker(ink, 0.12))
        + oval(200, 168, 136, 32, darker(ink, 0.4))
        + line("M66 238Q200 276 334 238", darker(ink, 0.16), 6)
    )


def _mug(ink: str) -> str:
    return (
        shadow(104, 330)
        + line("M262 160Q346 156 338 218T254 270", darker(ink, 0.14), 24)
        + shape("M96 122H272L262 296Q260 324 232 324H136Q108 324 106 296Z", ink)
        + shape("M101 236Q180 262 267 226L262 296Q260 324 232 324H136Q108 324 106 296Z", darker(ink, 0.3))
        + rect(116, 144, 22, 92, lighter(ink, 0.4), 11)
        + oval(184, 122, 88, 20, darker(ink, 0.14))
        + oval(184, 125, 77, 14, "#6b4630")
        + line("M164 92Q150 74 166 58T160 26M206 92Q192 74 208 58T202 26", "#fff", 7, 'opacity=".75"')
    )


_KITCHEN = {
    "frying-pan": _frying_pan,
    "saucepan": _saucepan,
    "casserole": _casserole,
    "knife": _knife,
    "board": _board,
    "kettle": _kettle,
    "press": _press,
    "grinder": _grinder,
    "scale": _scale,
    "bowl": _bowl,
    "mug": _mug,
}
