"""Shirts, shoes and bags, drawn from their style and their first colour."""

from quartet.demo.drawing.ink import (
    COLOURS,
    Product,
    colour_of,
    darker,
    dot,
    group,
    is_pale,
    lighter,
    line,
    oval,
    rect,
    shadow,
    shape,
    zoom,
)

_TORSO = "M148 74L96 100L104 330Q200 342 296 330L304 100L252 74Q200 112 148 74Z"
_SHORT_SLEEVES = "M148 74L96 96L44 176L102 206L122 176ZM252 74L304 96L356 176L298 206L278 176Z"
_LONG_SLEEVES = "M148 74L92 98Q62 190 48 316L92 324L128 190ZM252 74L308 98Q338 190 352 316L308 324L272 190Z"


def shirt(product: Product) -> tuple[str, str]:
    cloth = colour_of(product, COLOURS["white"])
    attrs = product["attrs"]
    seam = darker(cloth, 0.2)
    sleeves = _LONG_SLEEVES if attrs["sleeve"] == "long" else _SHORT_SLEEVES
    pattern, over = _pattern(product, cloth)
    body = shape(sleeves, darker(cloth, 0.1)) + shape(_TORSO, cloth)
    if over:
        body += shape(sleeves, "url(#p)") + shape(_TORSO, "url(#p)")
    body += line("M122 176L112 120M278 176L288 120", seam, 2.5) + line("M105 318Q200 330 295 318", seam, 2.5)
    if attrs["sleeve"] == "long":
        body += line("M50 300L95 308M350 300L305 308", seam, 3)
    body += _neck(product, cloth)
    width = {"slim": 0.92, "regular": 1.0, "relaxed": 1.06}[attrs["fit"]]
    worn = group(body, f"translate({200 - 200 * width:g} 0) scale({width:g} 1)")
    return cloth, pattern + shadow(112, 346) + worn


def _pattern(product: Product, cloth: str) -> tuple[str, bool]:
    if "striped" in product["tags"]:
        inside = rect(0, 0, 24, 24, "#f4f0e6") + rect(0, 0, 24, 9, cloth)
    elif product["attrs"]["style"] == "flannel":
        dark = darker(cloth, 0.55)
        inside = (
            rect(0, 0, 48, 48, "none")
            + rect(0, 0, 20, 48, dark, more='opacity=".5"')
            + rect(0, 0, 48, 20, dark, more='opacity=".5"')
            + rect(32, 0, 3, 48, "#f3e3c0", more='opacity=".7"')
            + rect(0, 32, 48, 3, "#f3e3c0", more='opacity=".7"')
        )
    else:
        return "", False
    side = 24 if "striped" in product["tags"] else 48
    return f'<pattern id="p" width="{side}" height="{side}" patternUnits="userSpaceOnUse">{inside}</pattern>', True


def _neck(product: Product, cloth: str) -> str:
    style = product["attrs"]["style"]
    seam, skin = darker(cloth, 0.2), darker(cloth, 0.5)
    if style == "t-shirt":
        return shape("M152 72Q200 138 248 72Q200 94 152 72Z", skin) + line("M150 74Q200 142 250 74", seam, 8)
    collar = shape("M150 72L168 58Q200 78 232 58L250 72L222 118L200 90L178 118Z", lighter(cloth, 0.16))
    collar += line("M150 72L178 118L200 90L222 118L250 72", seam, 3)
    back = shape("M168 58Q200 46 232 58Q200 78 168 58Z", skin)
    end = 170 if style == "polo" else 328
    placket = rect(190, 92, 20, end - 88, lighter(cloth, 0.08), 2) + line(f"M190 96V{end}M210 96V{end}", seam, 2)
    button = "#8a8f97" if is_pale(cloth) else "#f3eee2"
    count = 2 if style == "polo" else 6
    buttons = "".join(dot(200, 122 + 36 * i, 4, button) for i in range(count))
    return back + placket + buttons + collar + _pockets(product, cloth)


def _pockets(product: Product, cloth: str) -> str:
    style, seam = product["attrs"]["style"], darker(cloth, 0.2)
    if style in ("t-shirt", "polo") or product["attrs"]["fit"] == "slim":
        return ""
    places = {"button-down": [(228, 160, 42, 48)], "flannel": [(130, 156, 46, 52), (224, 156, 46, 52)]}.get(
        style, [(130, 150, 46, 52), (224, 150, 46, 52), (124, 248, 54, 58), (222, 248, 54, 58)]
    )
    flap = style in ("flannel", "overshirt")
    drawn = ""
    for x, y, w, h in places:
        drawn += rect(x, y, w, h, cloth, 4, f'stroke="{seam}" stroke-width="3"')
        if flap:
            drawn += shape(f"M{x} {y}h{w}v12l-{w // 2} 10l-{w // 2}-10Z", seam)
    return drawn


def shoe(product: Product) -> tuple[str, str]:
    upper = colour_of(product, COLOURS["brown"])
    return upper, shadow(158, 308) + _SHOES[product["attrs"]["style"]](product, upper)


def _trainer(product: Product, upper: str) -> str:
    canvas = product["attrs"]["material"] == "canvas"
    toe = "#f4f0e6" if canvas else lighter(upper, 0.1) if not is_pale(upper) else darker(upper, 0.07)
    laces = "".join(
        line(f"M{172 + 21 * i} {178 + 12 * i}l22-16", "#fff" if not is_pale(upper) else "#9aa1a9", 6) for i in range(4)
    )
    return (
        shape("M56 276V176Q56 150 78 148Q96 166 128 152Q148 144 158 154Q184 196 250 214Q330 228 346 276Z", upper)
        + shape("M264 217Q332 230 346 276H274Q256 246 264 217Z", toe)
        + shape("M56 276V186Q88 190 98 276Z", darker(upper, 0.14))
        + line("M130 154Q134 214 190 276", darker(upper, 0.2), 3)
        + laces
        + rect(48, 268, 306, 34, "#f6f4ee", 14)
        + line("M60 282H342", COLOURS["red"] if canvas else "#cfd3d6", 3, 'stroke-dasharray="9 6"')
    )


def _running(product: Product, upper: str) -> str:
    trail = "trail" in product["tags"]
    laces = "".join(line(f"M{168 + 20 * i} {172 + 13 * i}l24-15", "#fff", 6) for i in range(4))
    sole = "M40 264Q66 252 110 262T220 266T360 252Q368 284 336 296H74Q42 296 40 264Z"
    lugs = "".join(rect(64 + 28 * i, 292, 17, 16, "#24272c", 3) for i in range(10)) if trail else ""
    return (
        lugs
        + shape(
            "M50 270Q40 200 52 148Q72 140 84 158Q110 170 146 146Q160 146 166 158Q196 204 256 222Q336 234 356 266Z",
            upper,
        )
        + shape("M258 223Q336 234 356 266H286Q262 248 258 223Z", darker(upper, 0.25))
        + shape("M50 270Q40 200 52 148Q72 140 80 156Q72 220 112 268Z", darker(upper, 0.25))
        + line("M108 256Q150 236 166 190M138 262Q182 244 196 206M170 264Q214 250 226 220", lighter(upper, 0.55), 7)
        + laces
        + shape(sole, "#24272c" if trail else "#f7f5f0")
        + ("" if trail else shape("M44 278Q180 296 352 278Q346 296 326 298H76Q50 298 44 278Z", lighter(upper, 0.2)))
    )


def _boot(product: Product, upper: str) -> str:
    walking = product["attrs"]["waterproof"]
    leg = "M82 272V86Q140 74 196 86Q194 150 204 184Q260 196 300 214Q338 232 340 272Z"
    if walking:
        detail = "".join(line(f"M{172 + (0, 2, 4, 14, 32)[i]} {112 + 26 * i}l28-6", "#d9b15c", 6) for i in range(5))
        detail += rect(78, 76, 124, 26, darker(upper, 0.35), 12) + shape(
            "M270 202Q338 226 340 272H286Q262 240 270 202Z", darker(upper, 0.3)
        )
        sole = rect(72, 266, 276, 24, "#24272c", 8) + "".join(
            rect(80 + 31 * i, 286, 20, 18, "#24272c", 3) for i in range(9)
        )
    else:
        detail = shape("M116 92H166L158 190Q142 204 126 190Z", darker(upper, 0.5))
        detail += "".join(line(f"M{126 + 8 * i} 98V188", darker(upper, 0.25), 2) for i in range(5))
        detail += line("M90 84V62Q98 54 104 62V80", darker(upper, 0.3), 6) + line(
            "M116 196Q200 214 250 250T330 264", darker(upper, 0.25), 3
        )
        sole = rect(74, 268, 272, 14, "#24272c", 6) + rect(76, 276, 80, 28, "#24272c", 4)
    return shape(leg, upper) + shape("M82 272V86Q94 82 104 82V272Z", darker(upper, 0.16)) + detail + sole


def _loafer(_product: Product, upper: str) -> str:
    return (
        shape("M58 276Q46 216 62 178Q92 196 138 188Q160 184 176 172Q214 176 250 206Q326 216 346 276Z", upper)
        + shape("M66 182Q96 200 138 192Q160 188 174 178Q158 206 118 208Q84 208 66 182Z", darker(upper, 0.5))
        + line("M188 176Q178 212 236 226Q258 230 262 210", darker(upper, 0.28), 5)
        + shape("M186 196L254 212L248 236L178 218Z", darker(upper, 0.22))
        + line("M206 214L226 219", lighter(upper, 0.5), 5)
        + line("M62 260Q110 250 128 272", darker(upper, 0.2), 3)
        + rect(52, 270, 300, 14, "#5a3d27", 6)
        + rect(54, 278, 84, 22, "#3c2819", 4)
    )


def _sandal(_product: Product, upper: str) -> str:
    return (
        line("M92 256Q70 170 128 150Q166 170 168 252", upper, 28)
        + line("M78 206Q120 226 164 212", darker(upper, 0.2), 22)
        + line("M214 256Q232 176 286 196Q322 216 330 258", upper, 30)
        + line("M150 168Q210 182 262 194", upper, 20)
        + rect(114, 196, 26, 26, "#c9cdd2", 5)
        + rect(252, 184, 24, 24, "#c9cdd2", 5, 'transform="rotate(14 264 196)"')
        + shape("M52 262Q60 246 92 250Q200 268 338 250Q362 252 358 276Q352 302 324 302H78Q50 300 52 262Z", "#4b4740")
        + shape("M52 262Q60 246 92 250Q200 268 338 250Q358 252 358 266Q200 284 52 266Z", "#8d8371")
    )


_SHOES = {"trainer": _trainer, "running": _running, "boot": _boot, "loafer": _loafer, "sandal": _sandal}


def bag(product: Product) -> tuple[str, str]:
    cloth = colour_of(product, COLOURS["olive"])
    return cloth, shadow(120, 346) + _BAGS[product["attrs"]["style"]](product, cloth)


def _backpack(product: Product, cloth: str) -> str:
    tags, dark = product["tags"], darker(cloth, 0.25)
    straps = line("M150 82Q200 20 250 82", dark, 13)
    if "waterproof" in tags:
        return (
            rect(106, 120, 188, 222, cloth, 22)
            + rect(112, 66, 176, 70, lighter(cloth, 0.12), 10)
            + line("M112 92H288M112 114H288", dark, 4)
            + line("M112 82C76 130 84 190 108 214M288 82C324 130 316 190 292 214", dark, 9)
            + rect(128, 214, 144, 96, dark, 14)
            + line("M140 236H260", "#e9ecef", 8)
            + rect(186, 74, 28, 18, "#2b2e33", 4)
        )
    if "hiking" in tags:
        return zoom(
            straps
            + rect(124, 60, 152, 60, dark, 26)
            + rect(108, 96, 184, 250, cloth, 34)
            + rect(84, 190, 36, 110, dark, 16)
            + rect(280, 190, 36, 110, dark, 16)
            + line("M148 110V330M252 110V330", darker(cloth, 0.45), 9)
            + rect(140, 228, 120, 92, lighter(cloth, 0.14), 16)
            + line("M152 252H248", darker(cloth, 0.45), 5)
            + rect(96, 320, 208, 22, "#c9a34e", 11),
            0.96,
        )
    return (
        straps
        + line("M118 170C84 190 84 270 112 312M282 170C316 190 316 270 288 312", dark, 14)
        + shape("M108 330V152Q108 74 200 74T292 152V330Q292 344 278 344H122Q108 344 108 330Z", cloth)
        + line("M124 176Q126 100 200 100T276 176", dark, 5)
        + rect(130, 218, 140, 104, lighter(cloth, 0.12), 16)
        + line("M144 242H256", dark, 5)
        + rect(244, 240, 8, 22, "#d7b262", 4)
        + rect(180, 166, 40, 22, "#b8803f", 4)
    )


def _tote(_product: Product, cloth: str) -> str:
    handle = darker(cloth, 0.32)
    return (
        line("M146 176V104Q146 54 200 54T254 104V176", darker(cloth, 0.45), 13)
        + shape("M86 148H314L332 334Q332 344 322 344H78Q68 344 68 334Z", cloth)
        + shape("M86 148H314L316 168H84Z", darker(cloth, 0.12))
        + line("M146 190V112Q146 70 200 70T254 112V190", handle, 13)
        + line("M138 186H154M246 186H262", darker(cloth, 0.5), 5)
        + dot(200, 256, 36, darker(cloth, 0.14))
        + line("M176 262Q188 244 200 258T224 254", lighter(cloth, 0.45), 6)
    )


def _messenger(_product: Product, cloth: str) -> str:
    leather = "#8a5a33"
    return (
        line("M84 176C90 40 310 40 316 176", leather, 13)
        + rect(66, 156, 268, 184, darker(cloth, 0.2), 16)
        + shape("M62 168Q62 152 78 152H322Q338 152 338 168V250Q338 274 314 274H86Q62 274 62 250Z", cloth)
        + line("M74 254Q78 262 88 262H312Q322 262 326 254", darker(cloth, 0.3), 3)
        + rect(186, 236, 28, 66, leather, 5)
        + rect(180, 274, 40, 22, "none", 4, 'stroke="#d7b262" stroke-width="5"')
    )


def _duffel(_product: Product, cloth: str) -> str:
    leather = "#6f4627"
    return (
        line("M130 182Q132 88 200 88T270 182", leather, 13)
        + shape("M62 226Q62 164 124 160H276Q338 164 338 226V306Q338 338 306 338H94Q62 338 62 306Z", cloth)
        + line("M96 176H304", darker(cloth, 0.4), 6)
        + rect(118, 160, 22, 178, leather)
        + rect(260, 160, 22, 178, leather)
        + shape("M62 252Q84 256 90 338H94Q62 338 62 306ZM338 252Q316 256 310 338H306Q338 338 338 306Z", leather)
        + line("M130 250Q134 150 200 150T270 250", leather, 11)
        + rect(180, 138, 40, 24, darker(leather, 0.3), 8)
    )


def _sling(_product: Product, cloth: str) -> str:
    return (
        line("M92 232C20 90 180 20 318 190", darker(cloth, 0.4), 16)
        + rect(226, 96, 40, 26, "#2b2e33", 5, 'transform="rotate(42 246 109)"')
        + shape("M84 226Q90 180 150 178H262Q322 180 328 226V284Q326 326 276 328H136Q86 326 84 284Z", cloth)
        + line("M106 206H306", darker(cloth, 0.4), 6)
        + rect(120, 238, 172, 66, lighter(cloth, 0.14), 16)
        + line("M136 256H276", darker(cloth, 0.4), 5)
        + rect(268, 254, 8, 24, "#e3e5e8", 4)
    )


def _suitcase(_product: Product, cloth: str) -> str:
    ribs = "".join(line(f"M{136 + 32 * i} 128V304", darker(cloth, 0.18), 5) for i in range(5))
    wheels = "".join(rect(x, 320, 22, 26, "#2b2e33", 8) for x in (116, 262))
    return (
        line("M160 100V34H240V100", "#7d848c", 8)
        + rect(156, 26, 88, 16, "#2b2e33", 8)
        + wheels
        + rect(100, 94, 200, 232, cloth, 26)
        + oval(200, 110, 60, 6, lighter(cloth, 0.3))
        + ribs
        + rect(92, 192, 10, 40, "#2b2e33", 4)
        + rect(180, 86, 40, 14, "#2b2e33", 6)
    )


_BAGS = {
    "backpack": _backpack,
    "tote": _tote,
    "messenger": _messenger,
    "duffel": _duffel,
    "sling": _sling,
    "suitcase": _suitcase,
}
