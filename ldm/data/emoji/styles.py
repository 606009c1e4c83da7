"""The art styles: which package each comes from, its words in captions, and how its icons are found by concept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ldm.data.emoji import packages
from ldm.data.emoji.names import Concept, code_key, slugify
from ldm.data.emoji.packages import Package
from ldm.data.emoji.rasterise import from_bitmap, from_svg

Draw = Callable[[int], Image.Image]  # size -> picture; raises ValueError where the icon is corrupt


@dataclass(frozen=True, kw_only=True)
class Style:
    """One art style.

    Attributes:
        package: where its art comes from.
        words: how captions name it.
        layout: how its package stores pictures.
    """

    package: Package
    words: str
    layout: Literal["iconify", "webp"] = "iconify"


STYLES: dict[str, Style] = {
    "noto": Style(package=packages.NOTO, words="noto clip art"),
    "twemoji": Style(package=packages.TWEMOJI, words="flat twemoji"),
    "fluent-flat": Style(package=packages.FLUENT_FLAT, words="flat fluent"),
    "fluent-3d": Style(package=packages.FLUENT_3D, words="soft 3d render", layout="webp"),
    "emojione": Style(package=packages.EMOJIONE, words="emojione clip art"),
    "noto-v1": Style(package=packages.NOTO_V1, words="noto blob"),
    "fxemoji": Style(package=packages.FXEMOJI, words="firefox clip art"),
    "fluent": Style(package=packages.FLUENT, words="fluent gradient"),
    "high-contrast": Style(package=packages.FLUENT_HIGH_CONTRAST, words="black pictogram"),
}
# What older sets, which list no code points, call a concept that CLDR has renamed since.
OLD_NAMES = {
    "smiling face with open hands": "hugging-face",
    "enraged face": "pouting-face",
    "robot": "robot-face",
    "grinning cat": "grinning-cat-face",
    "grinning cat with smiling eyes": "grinning-cat-face-with-smiling-eyes",
    "cat with tears of joy": "cat-face-with-tears-of-joy",
    "smiling cat with heart-eyes": "smiling-cat-face-with-heart-eyes",
    "cat with wry smile": "cat-face-with-wry-smile",
    "kissing cat": "kissing-cat-face",
    "weary cat": "weary-cat-face",
    "crying cat": "crying-cat-face",
    "pouting cat": "pouting-cat-face",
    "heart exclamation": "heavy-heart-exclamation",
    "person with blond hair": "blond-haired-person",
    "person with skullcap": "man-with-chinese-cap",
    "person with veil": "bride-with-veil",
    "person in suit levitating": "man-in-suit-levitating",
    "bullseye": "direct-hit",
    "water pistol": "pistol",
    "red question mark": "question-mark",
    "red exclamation mark": "exclamation-mark",
}
DEFAULT_STYLES = ("twemoji", "fluent-flat", "fluent-3d")


def open_style(style: Style, tarball: Path, wanted: list[Concept]) -> dict[str, Draw]:
    """What the style can draw of the wanted concepts: slug -> function of size."""
    if style.layout == "webp":
        return _open_webp(tarball, wanted)
    return _open_iconify(tarball, wanted)


def _open_webp(tarball: Path, wanted: list[Concept]) -> dict[str, Draw]:
    by_code = {code_key(stem): data for stem, data in packages.read_files(tarball, "assets", ".webp")}
    return {c.slug: _bitmap(by_code[c.code]) for c in wanted if c.code in by_code}


def _open_iconify(tarball: Path, wanted: list[Concept]) -> dict[str, Draw]:
    """Icons of an Iconify set, found by code point where the set lists them, else by name."""
    icons = packages.read_json(tarball, "icons.json")
    by_code = {code_key(code): icon for code, icon in packages.read_json(tarball, "chars.json").items()}
    names = {*icons["icons"], *icons.get("aliases", {})}
    run_together = {name.replace("-", ""): name for name in sorted(names)}
    found = {}
    for concept in wanted:
        name = by_code.get(concept.code) or _by_name(concept, names, run_together)
        if name:
            found[concept.slug] = _svg(icons, name)
    return found


def _by_name(concept: Concept, names: set[str], run_together: dict[str, str]) -> str | None:
    for slug in (slugify(concept.label), concept.slug, OLD_NAMES.get(concept.name, "")):
        if slug in names:
            return slug
        if slug.replace("-", "") in run_together:
            return run_together[slug.replace("-", "")]
    return None


def svg_document(icons: dict[str, Any], name: str) -> str:
    """Whole SVG document of an Iconify icon, its aliases followed and their flips and turns applied.

    Source: the IconifyJSON format: an alias names a `parent` and may add `hFlip`, `vFlip` and `rotate` (quarter turns).

    Raises:
        ValueError: no such icon.
    """
    flips, turns = [False, False], 0
    while name in icons.get("aliases", {}):
        alias = icons["aliases"][name]
        flips = [flips[0] ^ alias.get("hFlip", False), flips[1] ^ alias.get("vFlip", False)]
        turns += alias.get("rotate", 0)
        name = alias["parent"]
    icon = icons["icons"].get(name)
    if icon is None:
        raise ValueError(f"the package has no icon {name!r}")
    left, top = icon.get("left", icons.get("left", 0)), icon.get("top", icons.get("top", 0))
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    body = icon["body"]
    if any(flips) or turns % 4:
        x, y = left + width / 2, top + height / 2
        scale = f"{-1 if flips[0] else 1} {-1 if flips[1] else 1}"
        moves = f"translate({x} {y}) rotate({90 * (turns % 4)}) scale({scale}) translate({-x} {-y})"
        body = f'<g transform="{moves}">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
    )


def _svg(icons: dict[str, Any], name: str) -> Draw:
    return lambda size: from_svg(svg_document(icons, name), size)


def _bitmap(data: bytes) -> Draw:
    return lambda size: from_bitmap(data, size)
