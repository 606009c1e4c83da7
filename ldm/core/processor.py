"""What the CPU computes at speed: asked in one place, so that a choice can be tested with any answer."""

import platform
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Capabilities of a CPU and of PyTorch's kernels for it.

    Attributes:
        x86: it is of that family.
        onednn: PyTorch has oneDNN's kernels.
        onednn_bf16: among them are some for bfloat16. On x86 they need no more than AVX512.
        avx512_bf16: it has instructions for products of bfloat16 (x86: Intel since Cooper Lake and Sapphire Rapids,
            AMD since Zen 4; a virtual machine may hide them).
    """

    x86: bool
    onednn: bool
    onednn_bf16: bool
    avx512_bf16: bool

    @property
    def fast_bf16(self) -> bool:
        """Whether products of bfloat16 are faster than those of float32.

        oneDNN's kernels alone do not tell: with AVX512 but without AVX512-BF16 they widen every number first. On such a
        CPU (Emerald Rapids in a virtual machine that hides the instructions, one thread) a picture of `models/emoji`
        takes 3.07 s in bfloat16 and 1.48 s in float32 (`benchmarks/packing.py`), a training step 2.76 s and 1.23 s
        (`benchmarks/training.py --no-compile --batch 16`). Of CPUs other than x86 nothing was measured: there oneDNN's
        word is taken.
        """
        return self.onednn_bf16 and (self.avx512_bf16 or not self.x86)


def processor() -> Processor:
    """The CPU of this machine, within the limit that ONEDNN_MAX_CPU_ISA sets."""
    onednn = torch.backends.mkldnn.is_available()
    return Processor(
        x86=platform.machine() in ("x86_64", "AMD64"),
        onednn=onednn,
        onednn_bf16=onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        avx512_bf16=torch.cpu._is_avx512_bf16_supported(),
    )
