"""Which emoji become concepts, what they are called, and which pictures are held out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.data.emoji.names import concepts, drop_reason, slugify, tidy_keywords, tidy_name
from ldm.data.emoji.split import assign
from ldm.data.emoji.styles import svg_document

SMILEYS, PEOPLE, COMPONENT, ANIMALS, TRAVEL, SYMBOLS, FLAGS = 0, 1, 2, 3, 5, 8, 9


def entry(label, group=ANIMALS, subgroup=0, hexcode="1F600", **more):
    return {"label": label, "group": group, "subgroup": subgroup, "hexcode": hexcode, "emoji": label[:1], **more}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (entry("dog face"), None),
        (entry("black cat", hexcode="1F408-200D-2B1B"), None),
        (entry("heart on fire", SMILEYS, hexcode="2764-FE0F-200D-1F525"), None),
        (entry("cook", PEOPLE, hexcode="1F9D1-200D-1F373"), None),
        (entry("woman", PEOPLE, hexcode="1F469"), None),
        (entry("mermaid", PEOPLE, hexcode="1F9DC-200D-2640-FE0F", gender=0), None),
        (entry("woman cook", PEOPLE, hexcode="1F469-200D-1F373"), "variant of a person"),
        (entry("man bowing", PEOPLE, hexcode="1F647-200D-2642-FE0F", gender=1), "variant of a person"),
        (entry("person: red hair", PEOPLE, hexcode="1F9D1-200D-1F9B0"), "variant of a person"),
        (entry("family: man, boy", PEOPLE, hexcode="1F468-200D-1F466"), "variant of a person"),
        (entry("person running: facing right", PEOPLE, hexcode="1F3C3-200D-27A1-FE0F"), "variant of a person"),
        (entry("pregnant man", PEOPLE), "variant of a person"),
        (entry("light skin tone", COMPONENT), "component"),
        ({"label": "regional indicator A", "hexcode": "1F1E6"}, "component"),
        (entry("flag: France", FLAGS), "flag"),
        (entry("keycap: 3", SYMBOLS, 94), "letters or digits"),
        (entry("Japanese \u201chere\u201d button", SYMBOLS, 95), "letters or digits"),
        (entry("ON! arrow", SYMBOLS, 85), "letters or digits"),
        (entry("four o\u2019clock", TRAVEL, 58), "clock time"),
        (entry("four-thirty", TRAVEL, 58), "clock time"),
        (entry("alarm clock", TRAVEL, 58), None),
        (entry("black small square", SYMBOLS, 96), "same shape again"),
    ],
)
def test_drop_reason(given, reason):
    assert drop_reason(given) == reason


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (entry("Face with Tears of Joy"), "face with tears of joy"),
        (entry("pi\u00f1ata"), "pinata"),
        (entry("woman\u2019s hat"), "woman's hat"),
        (entry("Mrs. Claus"), "mrs claus"),
        (entry("person: beard", PEOPLE), "person with beard"),
        (entry("Leo", SYMBOLS, 87), "leo zodiac sign"),
    ],
)
def test_tidy_name(given, name):
    assert tidy_name(given) == name


def test_keywords_are_plain_words_once():
    words = ["Grin", ":D", "+1", "grinning_face", "smile", "GRIN", "sexy", "face", "a"]
    assert tidy_keywords(words, "grinning face") == ("grin", "smile", "face")


@given(st.text(max_size=40))
def test_slug_is_safe_in_a_file_name(text):
    slug = slugify(text)
    assert all(part.isascii() and part.isalnum() for part in slug.split("-") if part)
    assert not slug.startswith("-") and not slug.endswith("-") and slugify(slug) == slug


def test_concepts_keep_the_order_and_count_what_they_drop():
    rows = [entry("zebra", order=2, tags=["stripe"]), entry("ant", order=1), entry("flag: France", FLAGS, order=3)]
    kept, dropped = concepts(rows, {"z\ufe0f": ["black_and_white"]})
    assert [concept.slug for concept in kept] == ["ant", "zebra"] and dropped == {"flag": 1}
    assert kept[1].keywords == ("stripe", "black and white") and kept[1].group == "animals"


def test_two_emoji_of_one_name_are_refused():
    with pytest.raises(ValueError, match="both become 'dog'"):
        concepts([entry("dog"), entry("Dog")], {})


CELLS = [(f"c{i}", style) for i in range(400) for style in ("noto", "twemoji", "fluent")]


def test_split_has_the_stated_shares():
    splits = list(assign(CELLS, 0).values())
    assert splits.count("heldout_concepts") == 20 * 3
    assert 3 * 15 - 2 <= splits.count("heldout_cells") <= 3 * 15


@given(seed=st.integers(0, 2**40), data=st.data())
def test_split_holds_out_whole_concepts_and_cells_seen_in_another_style(seed, data):
    cells = data.draw(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), unique=True))
    cells += CELLS[:240] + [(f"drawn once {i}", "x") for i in range(100)]
    splits = assign(cells, seed)
    assert set(splits) == set(cells)
    held = {concept for (concept, _), name in splits.items() if name == "heldout_concepts"}
    trained = {concept for (concept, _), name in splits.items() if name == "train"}
    in_cells = {concept for (concept, _), name in splits.items() if name == "heldout_cells"}
    assert not held & (trained | in_cells) and in_cells <= trained
    assert splits == assign(cells[::-1], seed)


def test_another_seed_holds_out_others():
    assert assign(CELLS, 0) != assign(CELLS, 1)


ICONS = {
    "width": 32,
    "height": 32,
    "icons": {"left": {"body": '<path d="M0 0h9v9z"/>'}, "wide": {"body": "<g/>", "width": 48, "top": 2}},
    "aliases": {"right": {"parent": "left", "hFlip": True}, "again": {"parent": "right", "hFlip": True}},
}


def test_svg_takes_its_own_size_before_the_set_s():
    assert 'viewBox="0 0 32 32"' in svg_document(ICONS, "left")
    assert 'viewBox="0 2 48 32"' in svg_document(ICONS, "wide")


def test_alias_is_flipped_and_flipped_twice_is_the_same():
    assert "scale(-1 1)" in svg_document(ICONS, "right")
    assert svg_document(ICONS, "again") == svg_document(ICONS, "left")


def test_unknown_icon_is_named():
    with pytest.raises(ValueError, match="no icon 'gone'"):
        svg_document({**ICONS, "aliases": {"x": {"parent": "gone"}}}, "x")
