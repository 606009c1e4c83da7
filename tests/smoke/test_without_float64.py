"""What runs on a model's device makes no float64 there: Apple's MPS has none, and this machine has no MPS.

A tensor here says that it is on "mps" and has its numbers on the CPU. It refuses what that device would: float64, and
other tensors that are elsewhere.
"""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from autoencoder.metrics import ssim
from ldm.core.gaussian import Gaussian
from ldm.core.precision import in_float64
from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.evaluation import matched, truncation
from ldm.evaluation.bpd import estimated_terms, stage_one
from ldm.evaluation.paths import level_errors, path_terms
from ldm.evaluation.pixels import PixelLikelihood, measured_scale
from ldm.evaluation.which_caption import which_caption
from ldm.inference.blend import slerp
from ldm.nets.cond import Cond
from ldm.process.grid import uniform_logsnr
from ldm.process.schedule import Cosine
from ldm.samplers import SAMPLERS
from ldm.training.learn_schedule import single_level_draws

MPS = torch.device("mps", 0)


class Pretended(torch.Tensor):
    """Numbers on the CPU that say they are on `MPS`."""

    @staticmethod
    def __new__(cls, numbers):
        if numbers.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls, numbers.size(), strides=numbers.stride(), dtype=numbers.dtype, device=MPS
        )
        made.numbers = numbers
        return made

    def __getitem__(self, index):  # torch's own asks for the real device
        return Pretended(self.numbers[index])

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        here = any(isinstance(x, Pretended) for x in tensors)
        to = kwargs.get("device")
        on_mps = here if to is None else torch.device(to).type == "mps"
        moves = op in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if here and not moves:
            assert all(isinstance(x, Pretended) or x.ndim == 0 for x in tensors), f"{op}: a tensor is elsewhere"
        args, kwargs = tree_map(lambda x: x.numbers if isinstance(x, Pretended) else x, (args, kwargs))
        found = op(*args, **kwargs | ({"device": torch.device("cpu")} if to is not None else {}))
        return tree_map(lambda x: Pretended(x) if on_mps and isinstance(x, torch.Tensor) else x, found)


class Made(TorchDispatchMode):
    """Tensors that are made on `MPS`, from no other."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return Pretended.__torch_dispatch__(op, types, args, kwargs)


@pytest.fixture(autouse=True)
def pretending():
    with Made():
        yield


def drawn(*shape, seed=0):
    return Pretended(torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1)


def denoise(x, logsnr, cond=None):
    """The posterior mean of standard normals."""
    assert x.device == logsnr.device == MPS and logsnr.dtype == torch.float32
    return Denoised(x * logsnr.sigmoid().sqrt().reshape(-1, *[1] * (x.ndim - 1)))


def noise(n=2):
    return NoiseStream(list(range(n)))


def test_the_pretended_device_is_as_strict_as_it_says():
    x = drawn(2, 3)
    with pytest.raises(TypeError, match="float64"):
        x.double()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64, device=MPS)
    with pytest.raises(AssertionError, match="elsewhere"):
        x + torch.ones(3)
    assert (x.device, x.cpu().device.type, torch.ones(3).to(x).device) == (MPS, "cpu", MPS)
    wide = in_float64(x)
    assert wide.dtype == torch.float64 and wide.device.type == "cpu" and torch.equal(wide.float(), x.numbers)
    assert ((x * torch.tensor(2.0, dtype=torch.float64)).dtype, x.sum().item()) == (torch.float32, x.numbers.sum())


def test_ssim_and_slerp():
    x, y = drawn(2, 3, 16, 16), drawn(2, 3, 16, 16, seed=1)
    assert torch.equal(ssim(x, y).cpu(), ssim(x.numbers, y.numbers)) and ssim(x, y).device == MPS
    share = torch.tensor([0.3, 1.0])
    assert torch.equal(slerp(x, y, share.to(x)).cpu(), slerp(x.numbers, y.numbers, share))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samplers(name):
    grid, x = uniform_logsnr(Cosine(), 4), drawn(2, 3, 4)
    sampled = SAMPLERS[name](denoise, x, grid, noise())
    assert sampled.device == MPS and torch.isfinite(sampled).all().item()


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("levels", [None, 256])
def test_likelihood_of_pixels(kind, levels):
    x, x_hat = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    scored = PixelLikelihood(kind=kind, scale=measured_scale(kind, x, x_hat), levels=levels)
    one = stage_one(lambda z: x_hat, x, Gaussian(x, torch.ones_like(x)), x, scored)
    assert all(term.dtype == torch.float64 and term.device.type == "cpu" for term in (one.pixels, one.log_q))


def test_bits_and_captions():
    x, schedule = drawn(2, 3, 4), Cosine()
    levels = torch.tensor([4.0, 0.0, -4.0], dtype=torch.float64)
    terms = [
        estimated_terms(denoise, x, schedule, noise(), steps=None, draws=2),
        path_terms(level_errors(denoise, x, levels, noise()), x, levels, [1, 3]),
    ]
    assert all(each.total.dtype == torch.float64 for each in terms)
    assert single_level_draws(denoise, x, schedule, noise(), 2).shape == (2, 2)
    conds = [Cond(drawn(1, 2, 3))] * 2
    assert which_caption(denoise, x, conds, schedule, noise(), draws=2).best.device.type == "cpu"


def test_fitted_samplers_and_paths():
    x, levels = drawn(2, 3, 4), torch.tensor([4.0, 0.0, -4.0], dtype=torch.float64)
    exact = matched.follow(denoise, x, uniform_logsnr(Cosine(), 6))
    path = matched.best_paths(exact, 2, 0.0)[-1]
    assert math.isfinite(matched.fit(denoise, path, exact)[1])
    assert truncation.truncation_table(*truncation.trajectories(denoise, x, levels), levels).shape == (4, 4)
