"""Cut-out art for scenes: every thing in every style, drawn from its source once and trimmed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ldm.core.decoding import read_picture
from ldm.data.emoji import packages
from ldm.data.emoji.names import concepts
from ldm.data.emoji.rasterise import check_renderer, from_svg
from ldm.data.emoji.styles import STYLES, Draw, open_style
from ldm.data.record import MOST_FAULTS
from ldm.data.scenes.colours import Hue, main_hue
from ldm.data.scenes.things import Thing, emoji_names, things

SIDE = 160  # pixels of a drawing before it is trimmed: a thing never takes more of a scene of 128
OPAQUE = 8  # of 255; what is fainter does not count as part of a thing
COLOURED_SHARE = 0.6  # part of a thing that must have one hue before it is shown in another
COLOURED_SATURATION = 0.3  # a paler hue is not what one would call the thing's colour
DEFAULT_STYLES = ("fluent-3d", "fluent-flat", "twemoji")
OWN = "own"  # style of pictures from a folder of the user's
SUFFIXES = (".png", ".webp", ".svg")

Pixels = UInt8[np.ndarray, "h w 4"]


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """One drawing of a thing, trimmed to what is opaque.

    Attributes:
        rgba: straight alpha; the longer side is at most `SIDE` pixels.
        hue: its main colour.
        mean: mean sRGB of what is opaque (3,), 0 to 255.
    """

    rgba: Pixels
    hue: Hue
    mean: Float[np.ndarray, " 3"]

    @property
    def colourable(self) -> bool:
        """Whether it can be shown in another colour and still look right."""
        return self.hue.share >= COLOURED_SHARE and self.hue.saturation >= COLOURED_SATURATION


@dataclass(frozen=True, kw_only=True)
class Art:
    """All drawings that scenes are composed from.

    Attributes:
        things: by name.
        sprites: (name of a thing, style) -> its drawings in that style, one or more.
        styles: those that have any, in the order they were asked for.
        faults: one line for each drawing that was left out.
    """

    things: Mapping[str, Thing]
    sprites: Mapping[tuple[str, str], Sequence[Sprite]]
    styles: tuple[str, ...]
    faults: Sequence[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """A hash of every name and pixel: scenes of two arts are the same where this is."""
        content = hashlib.sha256()
        for (name, style), sprites in sorted(self.sprites.items()):
            content.update(f"{name}/{style}/{self.things[name].plural}/{self.things[name].synonyms}".encode())
            for sprite in sprites:
                content.update(np.array(sprite.rgba.shape).tobytes() + sprite.rgba.tobytes())
        return content.hexdigest()[:16]

    def styles_of(self, name: str) -> list[str]:
        """The styles that draw a thing."""
        return [style for style in self.styles if (name, style) in self.sprites]

    def colourable(self, name: str, style: str) -> list[Sprite]:
        """The drawings of a thing in a style that can be shown in other colours."""
        return [sprite for sprite in self.sprites.get((name, style), ()) if sprite.colourable]


def load_art(cache: Path, styles: Sequence[str] = DEFAULT_STYLES, folder: Path | None = None) -> Art:
    """Draw all things in the given styles, from pinned packages and, where given, from a folder of the user's.

    Args:
        cache: folder of downloaded packages and of finished drawings, which are not drawn again.
        styles: keys of `ldm.data.emoji.styles.STYLES`.
        folder: cut-out pictures with transparency, each named by its thing: "red panda.png". PNG, WebP or SVG.

    Raises:
        ValueError: a style is unknown, a package cannot be had, the renderer is missing, `folder` has no pictures, or
            more than one drawing in ten is bad.
    """
    for style in styles:
        if style not in STYLES:
            raise ValueError(f"styles: {style!r} is unknown; choose from {', '.join(STYLES)}")
    found, faults = things(), list[str]()
    sprites: dict[tuple[str, str], list[Sprite]] = {}
    for name, style, sprite in _of_packages(found, styles, cache, faults):
        sprites.setdefault((name, style), []).append(sprite)
    if folder is not None:
        for name, sprite in _of_folder(folder, faults):
            found.setdefault(name, Thing(name=name, plural=None))
            sprites.setdefault((name, OWN), []).append(sprite)
    bad, good = len(faults), sum(map(len, sprites.values()))
    if not good or bad > MOST_FAULTS * (good + bad):
        raise ValueError(
            f"art: {bad} of {good + bad} drawings are bad, first {faults[0] if faults else 'none was found'}"
        )
    drawn = {name for name, _ in sprites}
    return Art(
        things={name: thing for name, thing in found.items() if name in drawn},
        sprites=sprites,
        styles=tuple(style for style in (*styles, OWN) if any(style == s for _, s in sprites)),
        faults=faults,
    )


def sprite_of(picture: Image.Image) -> Sprite:
    """A drawing trimmed to what is opaque, at most `SIDE` pixels long.

    Raises:
        ValueError: it has no transparent part, or nothing else.
    """
    picture = picture.convert("RGBA")
    solid = picture.getchannel("A").point(lambda value: 255 * (value > OPAQUE))
    box = solid.getbbox()
    if box is None:
        raise ValueError("the picture is fully transparent")
    if solid.getextrema()[0] == 255:
        raise ValueError("the picture has no transparent ground; cut the thing out")
    picture = picture.crop(box)
    scale = SIDE / max(picture.size)
    if scale < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    rgba = np.array(picture)
    weight = rgba[..., 3:] / 255
    mean = (rgba[..., :3] * weight).sum((0, 1)) / weight.sum()
    return Sprite(rgba=rgba, hue=main_hue(rgba), mean=mean)


def _of_packages(
    wanted: Mapping[str, Thing], styles: Sequence[str], cache: Path, faults: list[str]
) -> Iterator[tuple[str, str, Sprite]]:
    """(thing, style, drawing) of all emoji that the things need."""
    if not styles:
        return
    check_renderer()
    names = packages.read_json(packages.fetch(packages.EMOJIBASE, cache), "en/data.json")
    emoji = {c.name: c for c in concepts(names, {})[0] if c.name in emoji_names(wanted)}
    for style in styles:
        tarball = packages.fetch(STYLES[style].package, cache)
        drawings = _Finished(cache / "drawings" / f"{style}-{STYLES[style].package.version}-{SIDE}")
        draw = open_style(STYLES[style], tarball, list(emoji.values()))
        for thing in wanted.values():
            for name in thing.emoji:
                slug = emoji[name].slug if name in emoji else ""
                if slug in draw:
                    try:
                        yield thing.name, style, drawings.get(slug, draw[slug])
                    except (ValueError, OSError) as error:
                        faults.append(f"{tarball.name}: {slug}: {error}")


@dataclass(frozen=True)
class _Finished:
    """Drawings kept as PNG files, so that a package is drawn once."""

    folder: Path

    def get(self, slug: str, draw: Draw) -> Sprite:
        path = self.folder / f"{slug}.png"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            draw(SIDE).save(partial, format="PNG")
            partial.replace(path)
        try:
            return sprite_of(read_picture(path, str(path)))
        except ValueError:
            path.unlink()  # it is drawn anew the next time
            raise


def _of_folder(folder: Path, faults: list[str]) -> Iterator[tuple[str, Sprite]]:
    """(thing, drawing) of a folder of the user's."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise ValueError(f"art: {folder} has no pictures; give a folder with files like 'red panda.png'")
    for path in files:
        name = " ".join(path.stem.lower().replace("_", " ").replace("-", " ").split())
        try:
            if path.suffix.lower() == ".svg":
                picture = from_svg(path.read_text(encoding="utf-8"), SIDE)
            else:
                picture = read_picture(path, str(path))
            yield name, sprite_of(picture)
        except (ValueError, OSError) as error:
            faults.append(str(error) if str(path) in str(error) else f"{path}: {error}")
