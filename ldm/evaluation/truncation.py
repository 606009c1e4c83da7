"""What each step of an ODE sampler does wrong: a second cost of paths, for the look of pictures and not their bound.

Along reference trajectories, which visit every level, a step from level t straight to any cleaner level s reuses the
one evaluation at t, as in `ldm.evaluation.paths`. Where it lands beside the trajectory is its local truncation error.
Numbers of nodes are those of `ldm.process.paths`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.precision import in_float64
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.evaluation.paths import Levels
from ldm.process.paths import Cost
from ldm.samplers.ddim import step
from ldm.samplers.loop import per_image

Trajectory = Float[Tensor, "nodes b *d"]


@torch.no_grad()
def trajectories(denoise: Denoiser, x: Latent, levels: Levels) -> tuple[Trajectory, Trajectory]:
    """DDIM through all levels from x at the noisiest: x_t at every node and x0_hat there (T + 1, b, *d).

    Node 0 is what comes out; its estimate is itself.

    Args:
        denoise: (x_t, logsnr) -> Denoised, guided or not: the paths are best for the guidance they were measured with.
        x: normals (b, *d) at the last level.
        levels: nodes 1 .. T, falling, cleanest first.
    """
    falling = levels.tolist()
    at, estimate = [x], []
    for node in range(len(falling), 0, -1):
        x0_hat = denoise(at[-1], per_image(falling[node - 1], x)).x0
        estimate.append(x0_hat)
        at.append(step(at[-1], x0_hat, falling[node - 1], falling[node - 2] if node > 1 else math.inf))
    return torch.stack(at[::-1]), torch.stack([*estimate, at[-1]][::-1])


def truncation_table(at: Trajectory, estimate: Trajectory, levels: Levels) -> Cost:
    """Root mean square error of every DDIM step between the levels (T + 1, T + 1), for `optimal_paths`.

        cost[t, s] = sqrt( E |step(x_t, t -> s) - x_s|^2 / d )

    x is in units in which it has variance 1 at every level. Neighbours cost nothing. Errors of one path are added: by
    the triangle inequality the sum bounds the distance at the end, as far as the flow does not spread what it is given.

    Args:
        at, estimate: of `trajectories`.
        levels: theirs.
    """
    logsnr = torch.cat([torch.tensor([math.inf], dtype=torch.float64), levels.double().cpu()])
    count = len(logsnr)
    table = torch.full((count, count), math.inf, dtype=torch.float64)
    for t in range(1, count):
        for s in range(t):
            landed = step(at[t], estimate[t], logsnr[t].item(), logsnr[s].item())
            table[t, s] = in_float64(landed - at[s]).square().mean().sqrt().item()
    return table
