"""What `scripts/train_hierarchy.py` does: train small hierarchical VAEs on small pictures, print their bounds by term.

One level is a VAE, more are the lecture's Markovian hierarchy with learned Gaussians; all see the same batches.
"""

import argparse
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ldm.core.images import grid, save_png
from ldm.core.rng import NoiseStream, fold
from ldm.evaluation.encoded import read_pictures
from ldm.evaluation.table import Row, as_table, mean_row
from ldm.nets.hierarchy import HierarchicalVAE, HierarchySpec
from ldm.process.elbo import ElboTerms
from ldm.process.hierarchy import Hierarchy, consistency_terms

CELL = 2 / 255  # between two values of 8 bits in [-1, 1]
LARGEST_SEED, WIDEST = 2**63 - 1, 100_000
DRAWN, ENLARGED, LOGGED = 32, 8, 500  # samples of each model, pixels for one of theirs, steps between lines


def train_all(options: argparse.Namespace) -> Iterator[str]:
    """The text to print; a sheet of samples, one row for each model, is written at the end.

    Args:
        options: of `scripts/train_hierarchy.py`.

    Raises:
        ValueError: an option or the data cannot be used, or training produced NaN or infinity.
        OSError: the sheet cannot be written.
    """
    for name, least in (("side", 8), ("steps", 1), ("batch", 1), ("draws", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name}: {getattr(options, name)} is below {least}")
    if not 0 < options.lr <= 1:
        raise ValueError(f"--lr: {options.lr} is not in (0, 1]; 0.001 is usual")
    if not 0 <= options.seed <= LARGEST_SEED:
        raise ValueError(f"--seed: {options.seed} is outside 0 to 2^63 - 1")
    if not 1 <= options.width <= WIDEST:
        raise ValueError(f"--width: {options.width} is outside 1 to {WIDEST}")
    if options.out.is_dir():
        raise ValueError(f"--out: {options.out} is a folder; give the name of a PNG")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    shape = (3, options.side, options.side)
    specs = [HierarchySpec(data_dim=math.prod(shape), latent_dims=d, width=options.width) for d in options.dims]
    seen, held_out = (
        read_pictures([path], options.side, options.samples, options.seed).images.flatten(1)
        for path in (options.data, options.held_out)
    )
    size = f"{options.side}x{options.side}"
    yield f"{len(seen)} pictures of {options.data} at {size}, {options.steps} steps, seed {options.seed}"
    rows: list[Row] = []
    samples = []
    for spec in specs:
        torch.manual_seed(options.seed)
        vae = HierarchicalVAE(spec)
        yield from fit(vae, seen, options)
        rows += measured(vae, held_out, options)
        samples.append(drawn(vae, options.seed).unflatten(1, shape))
    yield as_table(rows)
    large = torch.cat(samples).clamp(-1, 1).repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
    save_png(grid(large, DRAWN), options.out)
    yield f"{options.out}: {DRAWN} samples of each"


def fit(vae: HierarchicalVAE, seen: Tensor, options: argparse.Namespace) -> Iterator[str]:
    """Descend the negative bound with Adam; yields a line now and then.

    Raises:
        ValueError: the bound is not finite.
    """
    optimizer = torch.optim.Adam(vae.parameters(), lr=options.lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for step in range(options.steps):
        stream = NoiseStream([fold(options.seed, "hierarchy", step)])
        rows = (stream.uniform((1, options.batch))[0] * len(seen)).long().clamp(max=len(seen) - 1)
        loss = terms(vae, seen[rows], stream).bits_per_dim(vae.spec.data_dim).mean()
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"step {step}: the bound is not finite; lower --lr ({options.lr})")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 100.0)
        optimizer.step()
        falling.step()
        if (step + 1) % LOGGED == 0:
            yield f"{named(vae.spec)}, step {step + 1}: {loss.item() - math.log2(CELL):.2f} bits/dim"


def terms(vae: HierarchicalVAE, x: Tensor, stream: NoiseStream) -> ElboTerms:
    """The negative bound of pictures (b, d), with uniform noise that fills the gaps between 8-bit values, nats.

    The noise makes densities of the values' probabilities. Source: Theis et al. 2016 (arXiv:1511.01844) section 3.1.
    """
    shaken = x + CELL * (stream.uniform((1, *x.shape))[0] - 0.5)
    eps = [stream.normal((1, len(x), dim))[0] for dim in vae.spec.latent_dims]
    parts = Hierarchy(encoders=vae.encoders, decoders=vae.decoders, log_likelihood=vae.log_likelihood)
    return consistency_terms(parts, shaken, eps)


@torch.no_grad()
def measured(vae: HierarchicalVAE, held_out: Tensor, options: argparse.Namespace) -> list[Row]:
    """The bound of held-out pictures by term, bits for each 8-bit value, the mean of several draws for each picture.

    Raises:
        ValueError: it is not finite.
    """
    stream = NoiseStream([fold(options.seed, "hierarchy", "held out")])
    found = [terms(vae, held_out, stream) for _ in range(options.draws)]
    if not all(bool(torch.isfinite(each.total).all()) for each in found):
        raise ValueError(f"{named(vae.spec)}: the bound is not finite after training; lower --lr ({options.lr})")
    unit, rows = vae.spec.data_dim * math.log(2), []
    for name, shift in (("recon", -math.log2(CELL)), ("denoise", 0.0), ("prior", 0.0), ("total", -math.log2(CELL))):
        label = "between levels" if name == "denoise" else name
        each = torch.stack([getattr(one, name) for one in found]).mean(0) / unit + shift
        rows.append(mean_row(named(vae.spec), f"{label} (bits/dim)", each))
    return rows


@torch.no_grad()
def drawn(vae: HierarchicalVAE, seed: int) -> Tensor:
    """Samples (n, d), from the prior down; of the pixels the mean is shown."""
    stream = NoiseStream([fold(seed, "hierarchy", "samples")])
    above = [stream.normal((1, DRAWN, dim))[0] for dim in vae.spec.latent_dims]
    return vae.sample([torch.zeros(DRAWN, vae.spec.data_dim), *above])


def named(spec: HierarchySpec) -> str:
    """Of a model in print."""
    return f"T = {len(spec.latent_dims)} ({', '.join(map(str, spec.latent_dims))})"
