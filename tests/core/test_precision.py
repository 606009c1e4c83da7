"""Narrow arithmetic only where the machine is fast in it."""

import pytest
import torch

from ldm.core import precision


@pytest.mark.parametrize(("instructions", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_is_asked(monkeypatch, instructions, dtype):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: instructions, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert precision.narrow("cpu") == dtype
    product = torch.ones(2, 2)
    with precision.autocast(torch.device("cpu")):
        assert (product @ product).dtype == dtype
    with precision.autocast(torch.device("cpu"), torch.bfloat16):  # what is asked for is done
        assert (product @ product).dtype == torch.bfloat16


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
