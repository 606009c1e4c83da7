"""Narrow arithmetic only where the machine is fast in it."""

import pytest
import torch

from ldm.core import precision
from ldm.core.processor import Processor, processor

CPUS = {
    "AVX512-BF16": (Processor(x86=True, onednn=True, onednn_bf16=True, avx512_bf16=True), torch.bfloat16),
    "AVX512": (Processor(x86=True, onednn=True, onednn_bf16=True, avx512_bf16=False), torch.float32),
    "AVX2": (Processor(x86=True, onednn=True, onednn_bf16=False, avx512_bf16=False), torch.float32),
    "held to AVX2": (Processor(x86=True, onednn=True, onednn_bf16=False, avx512_bf16=True), torch.float32),
    "no oneDNN": (Processor(x86=True, onednn=False, onednn_bf16=False, avx512_bf16=True), torch.float32),
    "Arm, bfloat16": (Processor(x86=False, onednn=True, onednn_bf16=True, avx512_bf16=False), torch.bfloat16),
    "Arm": (Processor(x86=False, onednn=True, onednn_bf16=False, avx512_bf16=False), torch.float32),
}


@pytest.mark.parametrize(("cpu", "dtype"), CPUS.values(), ids=CPUS)
def test_a_cpu_is_asked(monkeypatch, cpu, dtype):
    monkeypatch.setattr(precision, "processor", lambda: cpu)
    assert precision.narrow("cpu") == dtype
    product = torch.ones(2, 2)
    with precision.autocast(torch.device("cpu")):
        assert (product @ product).dtype == dtype
    with precision.autocast(torch.device("cpu"), torch.bfloat16):  # what is asked for is done
        assert (product @ product).dtype == torch.bfloat16


def test_without_onednn_it_has_no_kernels(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    found = processor()
    assert not found.onednn and not found.onednn_bf16 and not found.fast_bf16


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_card_is_asked_not_emulated(monkeypatch, bf16, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    assert precision.narrow("cuda") == precision.narrow("cuda:1") == dtype


def test_auto_becomes_lightnings_name_and_a_name_stays(monkeypatch):
    monkeypatch.setattr(precision, "narrow", lambda device: torch.bfloat16)
    assert precision.for_training("auto", "cpu") == "bf16-mixed"
    monkeypatch.setattr(precision, "narrow", lambda device: torch.float32)
    assert precision.for_training("auto", "cpu") == "32-true"
    assert precision.for_training("16-mixed", "cpu") == "16-mixed"
    assert precision.dtype_of("bf16-mixed", "cpu") == torch.bfloat16
    assert precision.dtype_of("auto", "cpu") == torch.float32
