"""How text is read before an engine sees it, and what of a text is shown as found."""

import html
import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartet.kernel.texts import fold
from quartet.search import words
from quartet.search.query import shown
from quartet.search.words import Marker, distance, index_text, normalised_query, of_attrs, of_sku, respellings, respelt

SEED = 16
texts = st.text(max_size=60) | st.text('abcdeé 12"ß-.,', max_size=40)


@given(texts)
def test_what_is_folded_is_folded_for_good(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert fold(text.upper()) == fold(fold(text.upper()))


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("32 GB", "32gb"),
        ("32GB", "32gb"),
        ("14 inch", "14inch"),
        ("14-Zoll", "14inch"),
        ('14" laptop', "14inch laptop"),
        ("14″ laptop", "14inch laptop"),
        ("14′′ laptop", "14inch laptop"),
        ("14’’ laptop", "14inch laptop"),
        ("14in laptop, 13.3in sleeve", "14inch laptop, 13.3inch sleeve"),
        ("2 in 1 laptop", "2 in 1 laptop"),
        ("3-in-1 adapter", "3-in-1 adapter"),
        ("1,5 L Flasche", "1.5l flasche"),
        ("1.50 litres", "1.5l"),
        ("1000gb", "1tb"),
        ("TEE 001 M", "tee 001 m"),
        ("0 W, 0.75 l", "0w, 0.75l"),
        ("set of 6 in a box", "set of 6 in a box"),
        ("usb3 gb12", "usb3 gb12"),
        ("  Crème \n Brûlée ", "creme brulee"),
        ("Straße", "strasse"),
        ("\ufeffdoor\u00admat\u200b 14\u200e inch", "doormat 14inch"),
        (" ".join("abcdefghijklmnopqrst"), " ".join("abcdefghijklmnop")),
    ],
)
def test_a_query_reads_the_same_however_it_was_typed(typed: str, read: str) -> None:
    assert normalised_query(typed) == read


def test_two_words_may_be_one() -> None:
    assert list(words.pairs("set of 6 t-light")) == ["setof", "tlight"]
    assert list(words.with_pairs("red door mat")) == ["reddoor mat", "red doormat"]
    assert list(words.with_pairs("32gb wi-fi")) == ["32gb wifi"]
    assert words.split_words('13.3" "o\'clock" & (t-light)') == ["13.3", "o'clock", "t", "light"]
    assert words.split_words("mouse/keyboard, pens,pencils salt&pepper 1,000 4,pens") == [
        "mouse", "keyboard", "pens", "pencils", "salt", "pepper", "1,000", "4", "pens",
    ]  # fmt: skip
    assert list(words.with_pairs("a b c d e")) == list(words.with_pairs("mat")) == list(words.with_pairs("- -")) == []


def test_a_thing_is_called_the_same_in_the_singular_and_plural() -> None:
    for many, one in (
        ("Phones", "phone"), ("SHOES", "shoe"), ("Boxes", "box"), ("Dresses", "dress"), ("Wine Glasses", "wine glass"),
        ("Vases", "vase"),
        ("Accessories", "accessory"), ("Bags & Purses", "bag, purse"),
        ("Hoodies", "hoodie"), ("hoody", "Hoodie"), ("Movies", "movie"), ("Sizes", "size"), ("Zombies", "zombie"),
        ("Pies", "pie"), ("Ties", "tie"), ("Möbel-Büro", "mobel buro"),
    ):  # fmt: skip
        assert words.name_of(many) == words.name_of(one), many
    for alone in ("glasses", "shorts", "news", "bus", "dress", "gas", "chassis", "cactus", "s"):
        assert words.name_of(alone) == alone


@given(texts)
def test_a_query_that_was_read_is_read_no_further(text: str) -> None:
    assert len(normalised_query(text).split()) <= words.MOST_WORDS * 64
    assert normalised_query(normalised_query(text)) == normalised_query(text)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("hear", ("", "hear")),
        ("wall clo", ("wall", "clo")),
        ("red t-ligh", ("red t-", "ligh")),
        ("t-light!", ("t-", "light")),
        ("- hear", ("", "hear")),
        ("- -", ("", "")),
        ("", ("", "")),
    ],
)
def test_the_last_word_is_the_one_that_is_being_typed(typed: str, read: tuple[str, str]) -> None:
    assert words.split_last_word(typed) == read


def test_a_text_is_kept_with_its_measures_behind_it() -> None:
    assert index_text('14" Laptop, 32 GB') == '14" laptop, 32 gb 14inch 32gb'
    assert index_text("32gb") == "32gb"
    held = {"ram_gb": 32, "screen_inch": 14.5, "color": "Black", "touch": True, "noise_cancelling": True, "x": None}
    assert list(of_attrs({**held, "curved": False, "pages": 300})) == [
        "32gb", "ram", "14.5inch", "14inch", "screen", "black", "touch", "noise cancelling"
    ]  # fmt: skip
    assert index_text('15.6" and 1.5 l') == '15.6" and 1.5 l 15.6inch 15inch 1.5l'
    assert list(of_sku("LAPTOP-001")) == ["laptop", "001", "laptop001"]
    assert list(of_sku("85123A")) == ["85123", "a", "85123a"]


def _slow(one: str, other: str) -> int:
    """Optimal string alignment, as the definition has it."""
    if not one or not other:
        return len(one) + len(other)
    best = min(_slow(one[1:], other) + 1, _slow(one, other[1:]) + 1, _slow(one[1:], other[1:]) + (one[0] != other[0]))
    if one[:2] == other[1::-1] and len(one) > 1 < len(other):
        best = min(best, _slow(one[2:], other[2:]) + 1)
    return best


@given(st.text("abc", max_size=5), st.text("abc", max_size=5), st.integers(0, 3))
def test_letters_that_are_wrong_are_counted(one: str, other: str, most: int) -> None:
    assert min(distance(one, other, most), most + 1) == min(_slow(one, other), most + 1)


@given(texts, texts, st.booleans())
def test_what_is_marked_is_the_text_and_safe(query: str, text: str, loosely: bool) -> None:
    marker = Marker(normalised_query(query), loosely=loosely)
    marked = marker.whole(text)
    if marked is not None:
        assert html.unescape(re.sub("</?em>", "", marked)) == text
        assert "<em>" in marked
    part = marker.part(text * 5)
    if part is not None:
        assert html.unescape(re.sub("</?em>", "", part)) in text * 5


def test_what_was_asked_for_is_marked() -> None:
    assert Marker("cans", loosely=False).whole("Cans & <script>") == "<em>Cans</em> &amp; &lt;script&gt;"
    assert Marker("box candle", loosely=False).whole("Boxes of Candles") == "<em>Boxes</em> of <em>Candles</em>"
    assert Marker("creme", loosely=False).whole("Die Crème") == "Die <em>Crème</em>"
    assert Marker("14inch", loosely=False).whole("A 14-inch screen") == "A <em>14-inch</em> screen"
    assert Marker("15inch", loosely=False).whole('A 15.6" screen') == "A <em>15.6&quot;</em> screen"
    assert Marker("thinkpda", loosely=False).whole("ThinkPad") is None
    assert Marker("waschmaschine", loosely=False).whole("Wasch\u00admaschine") == "<em>Wasch\u00admaschine</em>"
    assert Marker("thinkpda", loosely=True).whole("ThinkPad") == "<em>ThinkPad</em>"
    long = Marker("needle", loosely=False).part("hay " * 100 + "needle " + "hay " * 100)
    assert long is not None
    assert "<em>needle</em>" in long
    assert len(long) <= 150 + len("<em></em>")


def test_of_a_long_text_the_beginning_is_looked_at() -> None:
    marker, far = Marker("needel", loosely=True), words.MOST_READ // len("hay ") - len("needle")
    assert "<em>needle</em>" in (marker.part("hay " * far + "needle " + "hay " * 9_000) or "")
    assert marker.part("hay " * 9_000 + "needle") is None
    assert words.cut_at_word("hay needle", 6) == "hay"
    assert words.cut_at_word("語" * 1000, 500) == "語" * 500
    assert words.cut_at_word("a\n" * 1000, 500) == "a\n" * 249 + "a"
    assert words.cut_at_word("hay needle", 10) == "hay needle"


def test_what_is_misspelt_costs_little_to_mark_and_to_spell() -> None:
    """Sixteen words like none in long texts whose words are all different: a hundredth of a second of CPU for one text;
    the bound is ten times that, for machines that do other things."""
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    long = [" ".join(_strange(draw, draw.randint(3, 10)) for _ in range(2_700)) for _ in range(20)]
    query = " ".join(_strange(draw, 8) for _ in range(words.MOST_WORDS))
    began = time.process_time()
    marker = Marker(normalised_query(query), loosely=True)
    for text in long:
        marker.part(text)
    respellings(query, shown([{"_source": {"name": "", "brand": None, "description": text}} for text in long]))
    took = (time.process_time() - began) / len(long)
    print(f"{took * 1e3:.1f} ms each")
    assert took < 0.1


def _strange(draw: random.Random, length: int) -> str:
    return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=length))


def test_another_spelling_is_one_of_what_was_found() -> None:
    assert respellings("thinkpda busines", ["thinkpad x1", "business laptop"]) == {
        "thinkpda": "thinkpad", "busines": "business"
    }  # fmt: skip
    assert respellings("thinkpad", ["thinkpad x1"]) == {}
    assert respellings("boxes", ["a box"]) == {}
    assert respellings("zzzz", ["a box"]) == {}
    assert respelt("red thinkpda, thinkpda", {"thinkpda": "thinkpad"}) == "red thinkpad thinkpad"
