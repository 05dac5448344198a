"""What can be derived from a product's name on the invoices: its spelling, category, and the attributes it states.

Pure. An ambiguous word is ignored: better no attribute than a wrong one.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

Attrs = dict[str, str | int]

_COLORS = {
    "AMBER": "amber", "BEIGE": "beige", "BLACK": "black", "BLK": "black", "BLUE": "blue", "BROWN": "brown",
    "CREAM": "cream", "GOLD": "gold", "GOLDEN": "gold", "GREEN": "green", "GREY": "grey", "IVORY": "ivory",
    "LILAC": "lilac", "MULTICOLOUR": "multicolour", "MULTICOLOURED": "multicolour", "ORANGE": "orange", "PINK": "pink",
    "PURPLE": "purple", "RED": "red", "SILVER": "silver", "TURQUOISE": "turquoise", "TURQ": "turquoise",
    "WHITE": "white", "WHI": "white", "YELLOW": "yellow",
}  # fmt: skip
# Phrases in which the colour's word is not a colour.
_NO_COLORS = re.compile(
    r"\b(ICE CREAM|HAND CREAM|CREAM CAKE|BLACK ?BOARD|WHITE ?BOARD|GOLD ?FISH|ORANGE (?:SCENT|SPICE|SLICE)\w*"
    r"|GREEN TEA|RED RIDING|WHITE CHOCOLATE|BLACK FOREST|PINK PANTHER|SILVER JUBILEE|CLOTHES)\b"
)

_MATERIALS = {
    "ACRYLIC": "acrylic", "BAMBOO": "bamboo", "BONE CHINA": "bone china", "CERAMIC": "ceramic", "CHINA": "china",
    "COTTON": "cotton", "CRYSTAL": "crystal", "ENAMEL": "enamel", "FELT": "felt", "GLASS": "glass",
    "LEATHER": "leather",
    "LINEN": "linen", "METAL": "metal", "PAPER": "paper", "PLASTIC": "plastic", "POLYESTER": "polyester",
    "PORCELAIN": "porcelain", "RESIN": "resin", "RUBBER": "rubber", "SILK": "silk", "SLATE": "slate",
    "STONEWARE": "stoneware", "TERRACOTTA": "terracotta", "WICKER": "wicker", "WIRE": "wire", "WOOD": "wood",
    "WOODEN": "wood", "WOOL": "wool", "ZINC": "zinc",
}  # fmt: skip
_NO_MATERIALS = re.compile(
    r"\b((?:WINE|SHOT|HOUR|EYE|MAGNIFYING|LOOKING) GLASS(?:ES)?|SUN ?GLASSES|PAPER ?(?:CLIP|WEIGHT)S?|METAL DETECTOR"
    r"|CHINA TOWN|COTTON REELS?|HOT WATER BOTTLE|WOOD ?LAND|STEAMPUNK|GLASS CLEANER)\b"
)

_SET_SIZES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:SET|PACK|BOX|BUNDLE|CASE|PK|TIN)S? ?(?:OF|/) ?(\d{1,3})\b",
        r"\b(?:SET|PACK|PK|S/|P/) ?(\d{1,3})\b(?! ?(?:CM|MM|M|G|KG|ML)\b)",
        r"\b(\d{1,3}) ?(?:PCE?S?|PIECES?|PACK|PK)\b(?! \d)",
    )
)
_PAIR = re.compile(r"\bPAIR OF\b")


def attributes(name: str) -> Attrs:
    """`color`, `set_size` (pieces) and `material`, each only if the name states exactly one value.

    >>> attributes("SET OF 6 RED WOODEN HEARTS")
    {'color': 'red', 'set_size': 6, 'material': 'wood'}
    """
    upper = name.upper()
    found: Attrs = {}
    color = _only(_COLORS, _NO_COLORS.sub(" ", upper))
    if color:
        found["color"] = color
    sizes = {int(size) for pattern in _SET_SIZES for size in pattern.findall(upper)}
    if not sizes and _PAIR.search(upper):
        sizes = {2}
    if len(sizes) == 1 and (size := sizes.pop()) > 0:
        found["set_size"] = size
    material = _only(_MATERIALS, _NO_MATERIALS.sub(" ", upper))
    if material:
        found["material"] = material
    return found


def _only(words: Mapping[str, str], name: str) -> str | None:
    """The single value given by the name's words; None if there is none or more than one."""
    values = {words[word] for word in re.findall(r"[A-Z]+", name) if word in words}
    values |= {value for word, value in words.items() if " " in word and word in name}
    if {"china", "bone china"} <= values:
        values.discard("china")
    return values.pop() if len(values) == 1 else None


# The first match is the category, so the narrower ones come first.
_CATEGORIES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (slug, re.compile(rf"\b(?:{words})S?\b"))
    for slug, words in (
        ("gift-vouchers", r"VOUCHER"),
        ("christmas", r"CHRISTMAS|XMAS|ADVENT|SANTA|REINDEER|SNOWM[AE]N|SNOWFLAKE|BAUBLE|NATIVITY|STOCKING|NOEL"),
        (
            "jewellery",
            r"NECKLACE|BRACELET|EARRING|RING|BROOCH|BANGLE|PENDANT|HAIR ?(?:CLIP|GRIP|BAND|SLIDE|TIE)?|HAIRCLIP"
            r"|LARIAT|CHOKER|PHONE CHARM|BAG CHARM|CHARM|KEY ?(?:RING|FOB|CHAIN)|TIARA|HAIRBAND|CUFFLINK",
        ),
        (
            "bags-and-purses",
            r"(?<!TEA )BAG|HAND ?BAG|PURSE|WALLET|SHOPPER|TOTE|LUGGAGE|SATCHEL|BACKPACK|RUCKSACK|UMBRELLA",
        ),
        (
            "candles-and-lights",
            r"CANDLE ?(?:HOLDER|STICK|POT|PLATE)?|T-?LIGHT|LIGHT|LANTERN|LAMP ?(?:SHADE)?|INCENSE|CANDLEHOLDER"
            r"|CANDELABRA|CHANDELIER|VOTIVE|SHADE|OIL BURNER|LED",
        ),
        (
            "stationery",
            r"CARD|WRAP|NOTE ?BOOK|PEN|PENCIL|STICKER|TAPE|SKETCH ?BOOK|EXERCISE BOOK|JOTTER|ENVELOPE|LETTER"
            r"|WRITING|STAMP|TISSUE|RIBBON|INVITE|CALENDAR|ORGANISER|MEMO|CHALK|STATIONERY|GIFT TAG|PASSPORT|PAD"
            r"|POCKET BOOK|RUBBER|ERASER|CRAYON|PAPER",
        ),
        (
            "kitchen-and-dining",
            r"MUG|CUP|SAUCER|BOWL|PLATE|TEA ?(?:POT|TOWEL|COSY|SPOON|TIME|SET)?|CAKE ?(?:STAND|CASE|TIN)?|BAKING|JAR"
            r"|JUG|CUTLERY|SPOON|FORK|KITCHEN|APRON|OVEN|PANTRY|COFFEE|BISCUIT|SUGAR|EGG|BOTTLE|TRAY|DISH|COASTER"
            r"|NAPKIN|DOIL(?:Y|IE)|BREAKFAST|LUNCH BOX|SNACK|BREAD|JAM|JELLY|PAN|TUMBLER|BEAKER|WINE|GLASSE|PLACEMAT"
            r"|STRAW|COOK(?:IE|ER|BOOK)?|RECIPE|CAFE|BEER|MEASURING|WASHING UP|TOAST|SALT|PEPPER|FOOD|PICNIC|POPCORN"
            r"|TIN",
        ),
        (
            "toys-and-crafts",
            r"TOY|DOLL|DOLLY|GAME|JIGSAW|PUZZLE|PLAYHOUSE|PLAYING|DINOSAUR|TATTOO|SKIPPING|BALL|KNITTING|SEWING|CRAFT"
            r"|FELTCRAFT|KIT|TEDDY|PUPPET|DOMINOE|LUDO|MARBLE|BABY|CHILD(?:REN)?'?S?|CROCHET|SOLDIER|ORIGAMI"
            r"|SPACEBOY|HELICOPTER|KITE|YO-?YO|BOYS|GIRLS|BUTTON",
        ),
        (
            "home-textiles",
            r"CUSHION|TOWEL|DOOR ?MAT|RUG|CURTAIN|BLANKET|THROW|QUILT|FLANNEL|TABLE ?CLOTH|RUNNER|PILLOW|BED"
            r"|HOT WATER BOTTLE|WARMER|SLIPPER|SOCK|SCARF|GLOVE|FABRIC|FILLER",
        ),
        (
            "garden",
            r"GARDEN(?:ING|ER)?|PLANT(?:ER)?|WATERING|PARASOL|BIRD ?(?:BATH|HOUSE|FEEDER|TABLE|CAGE)|GNOME|SEED|HERB"
            r"|WINDMILL|HAMMOCK|DECKCHAIR|TROWEL|RAKE|POT|FLOWER POT|BEACH|BARBECUE",
        ),
        (
            "party-and-decorations",
            r"PARTY|BUNTING|GARLAND|WREATH|DECORATION|BIRTHDAY|EASTER|BALLOON|CONFETTI|HANGING|CHICK|BUNNY|FEATHER"
            r"|PAPER CHAIN|HONEYCOMB|STREAMER|FLAG|WEDDING|HALLOWEEN|FLOWER|ROSE|TREE",
        ),
        (
            "storage",
            r"BOX|BOXE|BASKET|DRAWER|CABINET|SHELF|RACK|CRATE|HOOK|HANGER|CHEST|TRUNK|STORAGE|TID(?:Y|IE)|BIN|STAND"
            r"|KNOB|HOLDER|CASE|TRINKET|SUITCASE",
        ),
        (
            "signs-frames-and-clocks",
            r"SIGN|FRAME|PHOTO ?FRAME|CLOCK|MIRROR|PICTURE|BLACK ?BOARD|MEMO ?BOARD|NOTICE ?BOARD|WALL|TILE|MAGNET"
            r"|PLAQUE|MAP|NUMBER|CANVAS|POSTER|ALBUM",
        ),
        (
            "bath-and-body",
            r"SOAP|BATH(?:ROOM)?|TOILET|BALM|LIP|COSMETIC|PILL|PLASTERS?|MANICURE|NAIL|TOOTH\w*|SHOWER|MASSAGE"
            r"|LAVENDER|PERFUME|SPONGE|VANITY|COMPACT|WASH",
        ),
    )
)
OTHER = "home-decor"


def category(name: str) -> str:
    """The slug of the category that a name belongs to; `home-decor` if none matches.

    >>> category("WHITE HANGING HEART T-LIGHT HOLDER")
    'candles-and-lights'
    """
    upper = name.upper()
    return next((slug for slug, words in _CATEGORIES if words.search(upper)), OTHER)


_THEMES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        word.lower().replace(" ", "-"): re.compile(rf"\b{word}S?\b")
        for word in (
            "VINTAGE", "RETROSPOT", "HEART", "CHRISTMAS", "EASTER", "POLKADOT", "UNION JACK", "PAISLEY", "GINGHAM",
            "BABUSHKA", "SPACEBOY", "DOLLY GIRL", "REGENCY", "SKULL", "BUTTERFLY", "BIRD", "OWL", "STAR", "ROSE",
            "FLORAL", "RETRO", "ANTIQUE", "WOODLAND", "STRAWBERRY", "LONDON", "CIRCUS", "BAROQUE", "PANTRY",
        )
    }
)  # fmt: skip


def tags(name: str) -> list[str]:
    """`gift`, and the themes that recur in the retailer's names (vintage, retrospot, union-jack, …)."""
    upper = name.upper()
    return ["gift", *(theme for theme, words in _THEMES.items() if words.search(upper))]


_SMALL = frozenset({"and", "for", "from", "in", "of", "on", "or", "the", "to", "with", "w"})
_KEPT = frozenset({"ABC", "BBQ", "DIY", "LED", "UK", "USB", "XL", "TV", "3D", "M.O.P", "II"})


def title(name: str) -> str:
    """The name in title case; the invoices have it in capitals.

    >>> title("PINK  HEART CONFETTI IN TUBE")
    'Pink Heart Confetti in Tube'
    """
    words = name.strip(" .,*").split()
    return " ".join(_word(word, first=number == 0) for number, word in enumerate(words))


def _word(word: str, *, first: bool) -> str:
    if word.upper() in _KEPT:
        return word.upper()
    if word.lower() in _SMALL and not first:
        return word.lower()
    return re.sub(r"(^|[-/+&,(\"])([a-z])", lambda found: found[1] + found[2].upper(), word.lower())


def slug(name: str, sku: str) -> str:
    """The slug of a product's page; it ends with the SKU, since several SKUs share a name.

    >>> slug("Set of 3 Cake Tins", "22720")
    'set-of-3-cake-tins-22720'
    """
    words = re.sub(r"[^a-z0-9]+", "-", f"{name} {sku}".lower().replace("'", ""))
    return words.strip("-")


def description(name: str, attrs: Attrs) -> str:
    """A few sentences from name and attributes, for people and for search."""
    said = [f"{name}."]
    if "set_size" in attrs:
        said.append(f"Comes as {attrs['set_size']} pieces." if attrs["set_size"] != 1 else "Comes as one piece.")
    if "material" in attrs:
        said.append(f"Material: {attrs['material']}.")
    if "color" in attrs:
        said.append(f"Colour: {attrs['color']}.")
    return " ".join(said)
