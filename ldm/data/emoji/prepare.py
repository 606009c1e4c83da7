"""Build the emoji data set: pinned packages in, an image folder with captions, splits and credits out."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ldm.data.emoji import packages, split
from ldm.data.emoji.names import GROUPS, Concept, concepts
from ldm.data.emoji.rasterise import check_renderer
from ldm.data.emoji.styles import STYLES, open_style

MARKER = "dataset.json"  # says that a folder was written here and may be replaced


@dataclass(kw_only=True)
class Summary:
    """What was written and what was not.

    Attributes:
        concepts: how many concepts some style drew.
        images: (style, split) -> pictures written.
        dropped: reason -> emoji left out before drawing.
        absent: style -> concepts that the style does not draw.
        repeated: style -> pictures left out since another concept has the very same one in that style.
        corrupt: one line per icon that could not be drawn, "style/icon: reason".
    """

    concepts: int = 0
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    corrupt: list[str] = field(default_factory=list)


def prepare(*, out: Path, cache: Path, styles: Sequence[str], groups: Sequence[str], size: int, seed: int) -> Summary:
    """Write the data set to `out`, replacing one that this function wrote before.

    The layout is that of any user's own data: `out/<split>/metadata.jsonl` with one JSON object a line
    ({"file_name": "noto/rocket.png", "caption": "rocket, noto clip art", ...}) beside the pictures it names,
    RGBA PNG of `size` x `size`. A run that fails leaves an older data set as it was.

    Args:
        out: folder to write.
        cache: folder of downloaded tarballs.
        styles: keys of `STYLES`.
        groups: of `GROUPS`, the kinds of things to keep. What is held out does not depend on the choice.
        size: side of the pictures, pixels, 8 to 1024.
        seed: decides which pictures are held out.

    Raises:
        ValueError: an option is out of range, a package cannot be had, the renderer is missing, or `out`
            cannot be written.
    """
    _check_options(styles, groups, size)
    check_renderer()
    partial = _start_output(out)
    try:
        summary = _write_all(partial, cache=cache, styles=styles, groups=groups, size=size, seed=seed)
        _swap(partial, out)
    except OSError as error:
        raise ValueError(f"cannot read or write {error.filename or out}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _check_options(styles: Sequence[str], groups: Sequence[str], size: int) -> None:
    if not 8 <= size <= 1024:
        raise ValueError(f"size: {size} is outside 8 to 1024 pixels")
    if not styles:
        raise ValueError(f"styles: none given; choose from {', '.join(STYLES)}")
    for style in styles:
        if style not in STYLES:
            raise ValueError(f"styles: {style!r} is unknown; choose from {', '.join(STYLES)}")
        if list(styles).count(style) > 1:
            raise ValueError(f"styles: {style!r} is given more than once")
    if not groups or not set(groups) <= set(GROUPS):
        raise ValueError(f"groups: {' '.join(groups) or 'none given'}; choose from {', '.join(GROUPS)}")


def _start_output(out: Path) -> Path:
    """An empty folder beside `out` to write into; refuses to replace what is not a data set of ours."""
    if out.exists() and not (out.is_dir() and ((out / MARKER).exists() or not any(out.iterdir()))):
        raise ValueError(f"out: {out} exists and was not written by this script; give another folder or remove it")
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"out: cannot write {partial}: {error.strerror}; choose a folder you may write to") from error
    return partial


def _swap(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`, which is gone only between two renames."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write_all(
    out: Path, *, cache: Path, styles: Sequence[str], groups: Sequence[str], size: int, seed: int
) -> Summary:
    names = packages.read_json(packages.fetch(packages.EMOJIBASE, cache), "en/data.json")
    keywords = packages.read_json(packages.fetch(packages.EMOJILIB, cache), "dist/emoji-en-US.json")
    wanted, dropped = concepts(names, keywords)
    summary = Summary(dropped=dropped)
    pictures = {style: _draw_style(style, wanted, cache, size, summary) for style in styles}
    cells = [(c.slug, style) for c in wanted for style in styles if c.slug in pictures[style]]
    splits = split.assign(cells, seed)
    rows: dict[str, list[str]] = {name: [] for name in split.SPLITS}
    by_slug = {c.slug: c for c in wanted}
    cells = [(slug, style) for slug, style in cells if by_slug[slug].group in groups]
    for slug, style in cells:
        name = splits[slug, style]
        path = out / name / style / f"{slug}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures[style][slug].save(path)
        rows[name].append(json.dumps(metadata_row(by_slug[slug], style)))
        summary.images[style, name] += 1
    for name, lines in rows.items():
        (out / name).mkdir(exist_ok=True)
        (out / name / "metadata.jsonl").write_text("".join(line + "\n" for line in lines))
    summary.concepts = len({slug for slug, _ in cells})
    (out / "CREDITS.md").write_text(credits_text(styles))
    (out / MARKER).write_text(
        json.dumps({"styles": list(styles), "groups": list(groups), "size": size, "seed": seed}) + "\n"
    )
    return summary


def _draw_style(style: str, wanted: list[Concept], cache: Path, size: int, summary: Summary) -> dict[str, Image.Image]:
    """Slug -> picture; what is absent, corrupt or the same picture again goes into the summary."""
    found = open_style(STYLES[style], packages.fetch(STYLES[style].package, cache), wanted)
    summary.absent[style] = len(wanted) - len(found)
    seen: set[bytes] = set()
    drawn = {}
    for slug, draw in found.items():
        try:
            picture = draw(size)
        except ValueError as error:
            summary.corrupt.append(f"{style}/{slug}: {error}")
            continue
        digest = hashlib.sha256(picture.tobytes()).digest()
        if digest in seen:  # would leak a held-out picture into train under another name
            summary.repeated[style] += 1
            continue
        seen.add(digest)
        drawn[slug] = picture
    return drawn


def metadata_row(concept: Concept, style: str) -> dict[str, object]:
    """One line of `metadata.jsonl`; `ldm.data.captions` draws varied captions from its columns."""
    words = STYLES[style].words
    return {
        "file_name": f"{style}/{concept.slug}.png",
        "caption": f"{concept.name}, {words}",
        "concept": concept.slug,
        "name": concept.name,
        "keywords": list(concept.keywords),
        "style": style,
        "style_words": words,
        "group": concept.group,
    }


def credits_text(styles: Sequence[str]) -> str:
    """Authors and licences of the pictures of `styles` and of the names, as Markdown."""
    used = [STYLES[style].package for style in styles] + [packages.EMOJIBASE, packages.EMOJILIB]
    lines = ["# Credits", "", "The pictures, names and keywords here come from these packages:", ""]
    lines += [f"- {p.art}. Licence: {p.licence}. {p.source} (npm {p.name} {p.version})" for p in used]
    changed = "The pictures were rasterised and, where needed, resized; nothing else was changed."
    licences = "CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/"
    return "\n".join([*lines, "", changed, licences, ""])
