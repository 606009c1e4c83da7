"""Which emoji become concepts, and what they are called: names, keywords and groups from CLDR."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GROUPS = (
    "smileys", "people", "component", "animals", "food", "travel", "activities", "objects", "symbols", "flags",
)  # fmt: skip  # in emojibase's order
DEFAULT_GROUPS = ("smileys", "animals", "food", "travel", "activities", "objects")  # things that can be drawn from
ZWJ = "200D"

# Pictures whose whole content is letters or digits, outside the subgroups that hold nothing else.
LETTERS = {
    "hundred points", "zzz", "atm sign", "water closet", "back arrow", "end arrow", "on! arrow", "soon arrow",
    "top arrow", "copyright", "registered", "trade mark", "no one under eighteen", "calendar", "tear-off calendar",
}  # fmt: skip
# The same shape at another size or inside a button: one of each is kept.
SHAPE_COPIES = {
    "black medium square", "white medium square", "black medium-small square", "white medium-small square",
    "black small square", "white small square", "small orange diamond", "small blue diamond", "radio button",
    "white square button", "black square button", "double curly loop", "check mark button", "cross mark button",
    "white question mark", "white exclamation mark",
}  # fmt: skip
# Variants of one concept by gender that are not marked as such by a joined sequence.
GENDERED = {
    "pregnant man", "pregnant woman", "woman and man holding hands", "women holding hands", "men holding hands",
    "mx claus", "merperson", "woman feeding baby", "man feeding baby",
}  # fmt: skip
KEPT_ALTHOUGH_GENDERED = {"mermaid"}  # the name people use, in place of "merperson"
RENAMED = {
    "person: blond hair": "person with blond hair",
    "person: beard": "person with beard",
    "pouring liquid": "glass pouring liquid",
    "hamsa": "hamsa hand",
    "mate": "mate drink",
    "latin cross": "christian cross",
}
SUBGROUP_KEYCAP, SUBGROUP_LETTERS, SUBGROUP_ZODIAC = 94, 95, 87
CRUDE = {"ass", "butt", "sexual", "sexy"}  # keywords of emojilib that no caption should teach


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One nameable thing that every style may draw.

    Attributes:
        slug: name in file names, e.g. "face-with-tears-of-joy"; unique.
        name: lower-case English name.
        keywords: other words for it.
        group: one of `GROUPS`.
        code: upper-case hexadecimal code points joined by "-", without variation selectors.
        label: the CLDR label that art packages derive their icon names from.
    """

    slug: str
    name: str
    keywords: tuple[str, ...]
    group: str
    code: str
    label: str


def code_key(hexcode: str) -> str:
    """Code points in the form used to match packages: upper case, variation selector FE0F stripped."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def slugify(text: str) -> str:
    """ASCII words joined by "-": "Piñata!" -> "pinata"."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")


def concepts(
    emojibase: Sequence[Mapping[str, Any]], emojilib: Mapping[str, Sequence[str]]
) -> tuple[list[Concept], Counter[str]]:
    """Concepts in CLDR order, and how many emoji were dropped for each reason.

    Args:
        emojibase: entries of emojibase's `en/data.json`.
        emojilib: emoji -> keywords, of emojilib's `emoji-en-US.json`.

    Raises:
        ValueError: two emoji end up with one name.
    """
    dropped: Counter[str] = Counter()
    kept: dict[str, Concept] = {}
    library = {key.replace("\N{VARIATION SELECTOR-16}", ""): words for key, words in emojilib.items()}
    for entry in sorted(emojibase, key=lambda e: e.get("order", 0)):
        reason = drop_reason(entry)
        if reason:
            dropped[reason] += 1
            continue
        name = tidy_name(entry)
        slug = slugify(name)
        if slug in kept:
            raise ValueError(f"{entry['label']!r} and {kept[slug].label!r} both become {name!r}; rename one in RENAMED")
        words = [*entry.get("tags", ()), *library.get(entry["emoji"].replace("\N{VARIATION SELECTOR-16}", ""), ())]
        kept[slug] = Concept(
            slug=slug,
            name=name,
            keywords=tidy_keywords(words, name),
            group=GROUPS[entry["group"]],
            code=code_key(entry["hexcode"]),
            label=entry["label"],
        )
    return list(kept.values()), dropped


def drop_reason(entry: Mapping[str, Any]) -> str | None:
    """Why an emojibase entry is no concept of its own, or None where it is one."""
    label, group, subgroup = _ascii_label(entry), entry.get("group"), entry.get("subgroup")
    if group is None or GROUPS[group] == "component":
        return "component"
    if GROUPS[group] == "flags":
        return "flag"
    if subgroup in (SUBGROUP_KEYCAP, SUBGROUP_LETTERS) or label in LETTERS:
        return "letters or digits"
    if label.endswith(("o'clock", "-thirty")):
        return "clock time"
    if label in SHAPE_COPIES:
        return "same shape again"
    if label not in KEPT_ALTHOUGH_GENDERED and (label in GENDERED or _is_person_variant(entry, label)):
        return "variant of a person"
    return None


def tidy_name(entry: Mapping[str, Any]) -> str:
    """Lower-case ASCII name of an emojibase entry; signs of the zodiac say that they are."""
    label = _ascii_label(entry)
    name = RENAMED.get(label, label).replace('"', "").replace(".", "").replace(": ", " ")
    return f"{name} zodiac sign" if entry.get("subgroup") == SUBGROUP_ZODIAC else name


def tidy_keywords(words: Sequence[str], name: str) -> tuple[str, ...]:
    """Plain lower-case keywords in first-seen order, without repeats, emoticons, crude words or the name itself."""
    seen: dict[str, None] = {}
    for word in words:
        plain = word.lower().replace("_", " ").replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip()
        if re.fullmatch(r"[a-z][a-z' -]+[a-z]", plain) and plain not in {name, *CRUDE}:
            seen.setdefault(plain)
    return tuple(seen)


def _ascii_label(entry: Mapping[str, Any]) -> str:
    label = entry["label"].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()


def _is_person_variant(entry: Mapping[str, Any], label: str) -> bool:
    """Joined sequences that give a person another gender, hair, direction or family."""
    if GROUPS[entry["group"]] != "people" or ZWJ not in entry["hexcode"].upper():
        return False
    gendered = "gender" in entry or re.match(r"(man|men|woman|women)\b", label)
    return bool(gendered or re.match(r"(person|family|kiss|couple with heart): ", label) or "facing right" in label)
