"""Layers for drawing on a CPU: weights laid out once for its matrix units, sums and products fused into the layer.

PyTorch hands a convolution's or a linear layer's weights to oneDNN in plain order, which lays them out anew in every
call: in the coarse levels of a U-Net that takes longer than the product. A packed layer keeps them laid out. It also
adds its bias, a residual or a gate while the result is in the registers. The numbers are those of the plain layer, but
for rounding: in float32 a 3x3 convolution of many pixels takes fewer products (`ldm.core.winograd`).

Operations are called by the name of their overload: to choose one, PyTorch writes down all arguments of one that fails.

Packed weights can neither be trained nor saved nor moved: pack a copy that is only to be evaluated.
"""

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.core.processor import Processor, processor
from ldm.core.winograd import Winograd, fits


@runtime_checkable
class Packable(Protocol):
    """A module that has a packed form of its own, e.g. one that fuses two of its layers."""

    def packed(self) -> nn.Module: ...


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels for packed weights of `dtype` on `device`. Whether they are fast: `packing_pays`."""
    cpu = processor()
    if device.type != "cpu" or not (cpu.onednn and cpu.x86):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and cpu.onednn_bf16)


def packing_pays(cpu: Processor) -> bool:
    """Whether drawing with packed layers is faster than with plain ones: on x86 CPUs with AVX512-BF16.

    Nothing else decides it, in any precision. Convolutions with fewer products (`ldm.core.winograd`) and split
    upsampling (`ldm.core.upsample`) come with packed layers. The answer follows what was measured, and is no for a
    CPU of which nothing was:

    - Zen 4 (AVX512-BF16, no AMX), 2 cores: yes, of layers. In bfloat16 a 2560 -> 1280 convolution at 8x8 takes 12 ms
      instead of 45, a feed-forward of 8192 tokens 43 ms instead of 88. Stable Diffusion's whole U-Net takes 0.75 of
      diffusers' time in bfloat16 and 0.80 in float32 (docs/speed.md).
    - Emerald Rapids in a virtual machine that hides AVX512-BF16 and AMX, one thread: no. A picture of `models/emoji` in
      20 steps takes 2.32 s packed and 1.48 s plain in float32. Packing gains a little (2.67 s for 3.07 s) only in
      bfloat16, in which this CPU should not compute at all (`Processor.fast_bf16`).
    - Zen 3 (AVX2), 2 cores: no. The same picture takes 13.0 s packed and 2.0 s plain in float32.

    `benchmarks/packing.py` measures it.
    """
    return cpu.x86 and cpu.onednn and cpu.fast_bf16


def pack(net: nn.Module) -> nn.Module:
    """Replace, in place, every convolution and linear layer of `net` by its packed form; returns `net`.

    Layers that cannot be packed (see `can_pack`) stay as they are.
    """
    for name, child in net.named_children():
        parameter = next(child.parameters(), None)
        if parameter is None or not can_pack(parameter.device, parameter.dtype):
            continue
        setattr(net, name, child.packed() if isinstance(child, Packable) else _packed(child))
    return net


def _packed(layer: nn.Module) -> nn.Module:
    if type(layer) is nn.Linear:
        return PackedLinear(layer.weight, layer.bias)
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return PackedPointwise(layer) if pointwise(layer) else PackedConv2d(layer)
    return pack(layer)


def plus(layer: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """residual + layer(x), in one pass where `layer` is packed."""
    if isinstance(layer, (PackedLinear, PackedConv2d, PackedPointwise)):
        return layer.plus(x, residual)
    return residual + layer(x)


class PackedLinear(nn.Module):
    """x W^T + b with packed weights: (..., n) -> (..., m).

    An input of another precision than the weights is computed in its own, from unpacked weights, slowly; under
    `torch.autocast` it is narrowed, as it is for a plain layer.

    Args:
        weight: (m, n).
        bias: (m,). None: there is none.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.dtype = weight.dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else bias.detach().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """The product and the bias."""
        x = narrowed(x, self.dtype)
        if x.dtype != self.dtype:
            return F.linear(x, *_dense(self.weight, self.bias, x.dtype))
        return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """gelu of the result."""
        x = narrowed(x, self.dtype)
        if x.dtype != self.dtype:
            return F.gelu(self(x))
        return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, "gelu", [], "none")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The result and a residual of its shape."""
        return self._with(x, residual, "add")

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The result times a factor of its shape."""
        return self._with(x, factor, "mul")

    def _with(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        x = narrowed(x, self.dtype)
        if x.dtype != self.dtype or other.dtype != self.dtype:
            return other + self(x) if operation == "add" else other * self(x)
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, operation)


class PackedConv2d(nn.Module):
    """A convolution with packed weights; precisions as in `PackedLinear`.

    Args:
        layer: what to pack.

    Attributes:
        reduces: whether pictures of many pixels are computed with fewer products.
    """

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.dtype = layer.weight.dtype
        self.padding: list[Any] = list(layer.padding)
        self.stride, self.dilation = list(layer.stride), list(layer.dilation)
        self.groups = layer.groups
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(layer.weight.detach(), *self._geometry())
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.reduces = reducible(layer)
        self._winograd: Winograd | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The convolution and the bias."""
        x = narrowed(x, self.dtype)
        if x.dtype != self.dtype:
            weight, bias = _dense(self.weight, self.bias, x.dtype)
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        if self._reduced(x):
            return self._with_fewer_products(x)
        how: tuple[Any, ...] = (*self._geometry(), "none", [], "")
        return torch.ops.mkldnn._convolution_pointwise.default(x, self.weight, self.bias, *how)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The result and a residual of its shape."""
        x = narrowed(x, self.dtype)
        if x.dtype != self.dtype or residual.dtype != self.dtype:
            return residual + self(x)
        if self._reduced(x):
            return self._with_fewer_products(x).add_(residual)
        how: tuple[Any, ...] = (*self._geometry(), "add", 1.0, None, [], None)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, residual, self.weight, self.bias, *how)

    def _reduced(self, x: Tensor) -> bool:
        filters, channels = self.weight.shape[:2]
        narrower = torch.is_autocast_enabled("cpu")  # its products would not be in float32
        return self.reduces and not narrower and fits(channels, filters, *x.shape[-2:])

    def _with_fewer_products(self, x: Tensor) -> Tensor:
        if self._winograd is None:  # only layers that see many pixels grow
            self._winograd = Winograd(self.weight.to_dense())
        out = self._winograd(x)
        return out if self.bias is None else out.add_(self.bias[:, None, None])

    def _geometry(self) -> tuple[Any, ...]:
        return self.padding, self.stride, self.dilation, self.groups


class PackedPointwise(nn.Module):
    """A 1x1 convolution as a linear layer over the pixels, as which a packed one takes an eighth of the time.

    Args:
        layer: one that is `pointwise`.
    """

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.linear = PackedLinear(layer.weight.flatten(1), layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, k, h, w), channels-last: the convolution and the bias."""
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, k, h, w): the result and a residual of its shape."""
        return self.linear.plus(x.permute(0, 2, 3, 1), residual.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pointwise(layer: nn.Conv2d) -> bool:
    """Whether a convolution looks at one pixel at a time, and at every pixel."""
    usual = (layer.kernel_size, layer.stride, layer.padding) == ((1, 1), (1, 1), (0, 0))
    return usual and layer.groups == 1


def reducible(layer: nn.Conv2d) -> bool:
    """Whether a layer is of the kind that `ldm.core.winograd` computes: in float32, 3x3, one pixel after the other."""
    usual = (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return usual and layer.groups == 1 and layer.weight.dtype == torch.float32


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` as a plain layer with weights of `dtype` would read it under `torch.autocast`."""
    return x.to(dtype) if torch.is_autocast_enabled("cpu") else x


def _dense(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight.to_dense().to(dtype), None if bias is None else bias.to(dtype)
