"""How much of the correction that an upscaler draws can be told from the small picture at all.

    python benchmarks/correction.py            # of models/emoji-upscaler, on data/emoji256

For small pictures as they are and for those that passed through the autoencoder: the variance of the correction (the
latent of the large picture less that of the enlarged one, in units of the model's `low.scale`), and which share of it
is explained on held-out pictures by the network's estimate from pure noise, and by ridge regression from the 3x3
neighbourhood of every place of the enlarged picture's latent, fitted on training pictures. A share below 0 is worse
than to correct nothing. What no function of the small picture explains can be drawn, not restored.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.build import Model
from ldm.core.command import run
from ldm.core.shapes import Image, Latent
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.evaluation.table import Row, as_table
from ldm.inference.conditions import condition
from ldm.inference.lowres import low_versions
from ldm.inference.upscale import load_upscaler
from ldm.nets.low import Low

AT_ONCE, RIDGE, NOISE = 8, 100.0, -20.0  # pictures; of the ridge; nats: a level of nothing but noise


def pictures(folder: Path, size: int, count: int) -> Image:
    """`count` pictures, spread evenly over a folder."""
    found = ImageFolder(FolderSpec(path=str(folder), size=size, limit=count))
    return torch.stack([found[i].image for i in range(len(found))])


def encoded(model: Model, images: Image) -> tuple[Latent, Tensor]:
    """Latents (n, c, h, w), and those of the enlarged small pictures in every version (n, k, c, h, w)."""
    assert model.config.low is not None
    parts = images.split(AT_ONCE)
    large = torch.cat([model.codec.posterior(part).mean for part in parts])
    return large, torch.cat([low_versions(model.codec, part, model.config.low) for part in parts])


def neighbourhoods(latent: Latent) -> Tensor:
    """Of every place its 3x3 neighbourhood and a one (n h w, 9 c + 1)."""
    around = F.unfold(F.pad(latent, (1, 1, 1, 1), mode="replicate"), 3).transpose(1, 2).flatten(0, 1)
    return torch.cat([around, torch.ones(len(around), 1)], dim=1)


def places(latent: Latent) -> Tensor:
    """One row for every place (n h w, c)."""
    return latent.flatten(2).transpose(1, 2).flatten(0, 1)


def by_ridge(seen: tuple[Latent, Latent], low: Latent) -> Tensor:
    """The correction that regression on `seen`, low latents and corrections, expects for `low`, one row a place."""
    x, y = neighbourhoods(seen[0]), places(seen[1])
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ y)
    return neighbourhoods(low) @ weights


def by_network(model: Model, low: Low) -> Tensor:
    """The correction that the network expects from the small picture alone, one row a place."""
    n, noise = len(low.latent), torch.randn(low.latent.shape, generator=torch.Generator().manual_seed(0))
    cond = low.into(condition(model, [""] * n, (low.latent.shape[-2], low.latent.shape[-1])))
    return places(model.denoise(noise, torch.full((n,), NOISE), cond).x0)


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji-upscaler")
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji256")
    p.add_argument("--fit", type=int, default=160, help="training pictures for the regression")
    p.add_argument("--samples", type=int, default=48, help="held-out pictures")
    options = p.parse_args()
    model = load_upscaler(options.model)
    spec = model.config.low
    assert spec is not None
    with torch.inference_mode():
        size = model.config.sample.size
        seen, lows_seen = encoded(model, pictures(options.data / "train", size, options.fit))
        large, lows = encoded(model, pictures(options.data / "heldout_cells", size, options.samples))
        rows = []
        for k in range(spec.versions):
            name = "small pictures" if k < len(spec.factors) else "small pictures, redrawn"
            low = Low(lows[:, k], torch.zeros(len(lows)), spec.scale)
            true = places(low.correction(large))
            fit = lows_seen[:, k], (seen - lows_seen[:, k]) / spec.scale
            rows.append(Row(name, "variance of the correction", true.square().mean().item(), None, len(large)))
            for by, guess in (("ridge", by_ridge(fit, low.latent)), ("the network", by_network(model, low))):
                share = 1 - (guess - true).square().mean() / true.square().mean()
                rows.append(Row(name, f"share explained by {by}", share.item(), None, len(large)))
    print(f"{options.model} ({model.sha256[:12]})\n\n{as_table(rows)}")


if __name__ == "__main__":
    run(main)
