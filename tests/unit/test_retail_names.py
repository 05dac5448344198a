"""What is read from a product's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartet.retail import naming


@pytest.mark.parametrize(
    ("name", "attrs"),
    [
        ("WHITE HANGING HEART T-LIGHT HOLDER", {"color": "white"}),
        ("SET OF 6 RED WOODEN HEARTS", {"color": "red", "set_size": 6, "material": "wood"}),
        ("SET/4 BLUE FLOWER CANDLES IN BOWL", {"color": "blue", "set_size": 4}),
        ("S/15 SILVER GLASS BAUBLES IN BAG", {"color": "silver", "set_size": 15, "material": "glass"}),
        ("PACK OF 72 RETROSPOT CAKE CASES", {"set_size": 72}),
        ("DIAMANTE HAIR GRIP PACK/2 PERIDOT", {"set_size": 2}),
        ("SET 12 RETRO WHITE CHALK STICKS", {"color": "white", "set_size": 12}),
        ("PARTY CHARMS 50 PIECES", {"set_size": 50}),
        ("PAIR OF ENAMEL BUTTERFLY HAIRCLIP", {"set_size": 2, "material": "enamel"}),
        ("BAKING MOULD ICE CREAM", {}),
        ("BLACK WINE GLASS", {"color": "black"}),
        ("FOLDING UMBRELLA WHITE/RED POLKADOT", {}),
        ("ZINC METAL HEART DECORATION", {}),
        ("SET OF 3 BOXES SET OF 6", {}),
        ("WOODLAND STORAGE BOX SMALL", {}),
        ("PINK/WHITE CHRISTMAS TREE 30CM", {}),
        ("", {}),
    ],
)
def test_only_what_a_name_says_plainly_becomes_an_attribute(name: str, attrs: naming.Attrs) -> None:
    assert naming.attributes(name) == attrs


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("WHITE HANGING HEART T-LIGHT HOLDER", "candles-and-lights"),
        ("ZINC FOLKART SLEIGH BELLS", "home-decor"),
        ("RED RETROSPOT TEA CUP AND SAUCER", "kitchen-and-dining"),
        ("JUMBO BAG RED RETROSPOT", "bags-and-purses"),
        ("TEA BAG PLATE RED RETROSPOT", "kitchen-and-dining"),
        ("SET OF 6 T-LIGHTS SANTA", "christmas"),
        ("FRENCH FLORAL CUSHION COVER", "home-textiles"),
        ("Dotcomgiftshop Gift Voucher £20.00", "gift-vouchers"),
    ],
)
def test_names_find_their_category(name: str, category: str) -> None:
    assert naming.category(name) == category


@pytest.mark.parametrize(
    ("shouted", "said"),
    [
        ("PINK  HEART CONFETTI IN TUBE", "Pink Heart Confetti in Tube"),
        ("WHITE HANGING HEART T-LIGHT HOLDER", "White Hanging Heart T-Light Holder"),
        ("RED TOADSTOOL LED NIGHT LIGHT", "Red Toadstool LED Night Light"),
        ("DOCTOR'S BAG SOFT TOY", "Doctor's Bag Soft Toy"),
        ("*USB Office Mirror Ball", "USB Office Mirror Ball"),
        ("THE KING GIFT BAG 25x24x12cm", "The King Gift Bag 25x24x12cm"),
        ("AIRLINE LOUNGE,METAL SIGN", "Airline Lounge,Metal Sign"),
    ],
)
def test_names_stop_shouting(shouted: str, said: str) -> None:
    assert naming.title(shouted) == said


@given(st.text(max_size=60), st.from_regex(r"[A-Z0-9_]{1,12}", fullmatch=True))
def test_any_name_gives_a_valid_slug_and_attributes(name: str, sku: str) -> None:
    slug = naming.slug(naming.title(name), sku)
    assert slug == slug.strip("-").lower()
    assert slug.isascii()
    size = naming.attributes(name).get("set_size", 1)
    assert isinstance(size, int)
    assert 1 <= size <= 999
