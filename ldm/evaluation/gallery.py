"""Pictures with known concepts, as features: computed once for a folder and kept beside it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from ldm.core.bundle import write_atomically
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.evaluation.features import Features, extract

CACHE = "features"  # folder beside the pictures' own
_BATCH = 32


@dataclass(frozen=True)
class Labelled:
    """Features of n pictures (n, d), and for each its caption, concept and style."""

    features: Features
    captions: list[str]
    concepts: list[str]
    styles: list[str]

    def select(self, rows: Sequence[int]) -> "Labelled":
        """The pictures at these positions, in this order."""
        return Labelled(
            self.features[list(rows)],
            [self.captions[i] for i in rows],
            [self.concepts[i] for i in rows],
            [self.styles[i] for i in rows],
        )


def labelled_features(net: nn.Module, path: Path, size: int) -> Labelled:
    """Features of every picture of a folder, on white, in the order of its metadata.

    They are kept in the folder `features` beside it, under a hash of the pictures' names, sizes and times and of
    the weights of `net`; pictures that change are computed afresh.

    Args:
        net: from `load_feature_net`.
        path: folder whose metadata has the columns concept and style.
        size: side to which pictures are fitted, pixels: that of the pictures to compare with.

    Raises:
        ValueError: as `ImageFolder`, or a picture without concept or style.
    """
    folder = ImageFolder(FolderSpec(path=str(path), size=size))
    rows = [record.columns for record in folder.records]
    for record in folder.records:
        for column in ("concept", "style"):
            if not record.columns.get(column):
                raise ValueError(f"{record.path}: no {column} in the metadata; concept accuracy needs one")
    cached = path.parent / CACHE / f"{path.name}-{_key(net, folder)}.safetensors"
    if cached.is_file():
        features = load_file(cached)["features"]
    else:
        starts = range(0, len(folder), _BATCH)
        batches = ([folder[i].image for i in range(s, min(s + _BATCH, len(folder)))] for s in starts)
        features = torch.cat([extract(net, torch.stack(batch)) for batch in batches])
        cached.parent.mkdir(exist_ok=True)
        write_atomically(cached, save({"features": features}))
    return Labelled(
        features, [row["caption"] for row in rows], [row["concept"] for row in rows], [row["style"] for row in rows]
    )


def _key(net: nn.Module, folder: ImageFolder) -> str:
    """Hash of what the features depend on."""
    digest = hashlib.blake2b(f"{folder.spec.size}".encode(), digest_size=8)
    for record in folder.records:
        found = record.path.stat()
        name = record.path.relative_to(folder.spec.path)
        digest.update(f"\n{name} {found.st_size} {found.st_mtime_ns}".encode())
    for weight in net.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()
