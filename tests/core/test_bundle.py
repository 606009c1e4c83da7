"""Bundles: bit-exact, atomic, and never unpickled."""

import errno
import os
import re
import socket

import pytest
import torch
from safetensors.torch import save_file

from ldm.core.bundle import BundleError, _replacing, content_hash, load_bundle, save_bundle, write_atomically

CONFIG = {"model": {"kind": "kl", "mult": [1, 2], "rate": 1e-4}}


def weights() -> dict[str, torch.Tensor]:
    return {
        "a": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(2, 3, 4, 4).bfloat16().to(memory_format=torch.channels_last),
        "scalar": torch.tensor(7),
        "none": torch.empty(0, 3),
        "mask": torch.tensor([True, False]),
    }


def as_bytes(x: torch.Tensor) -> bytes:
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def test_round_trip_is_bit_exact(tmp_path):
    saved, path = weights(), tmp_path / "w.safetensors"
    digest = save_bundle(path, CONFIG, saved, steps=12, moments={"mean": [0.1]})
    bundle = load_bundle(path)
    assert bundle.config == CONFIG and bundle.meta == {"steps": 12, "moments": {"mean": [0.1]}}
    assert bundle.weights.keys() == saved.keys()
    for name, tensor in saved.items():
        found = bundle.weights[name]
        assert (found.dtype, found.shape, as_bytes(found)) == (tensor.dtype, tensor.shape, as_bytes(tensor))
    assert digest == bundle.sha256 == content_hash(bundle.config, bundle.weights)


def test_the_hash_sees_every_bit():
    saved = {"a": torch.zeros(4), "b": torch.zeros(2, 2)}
    changes = [
        content_hash(CONFIG, saved),
        content_hash(CONFIG | {"x": 1}, saved),
        content_hash(CONFIG, saved | {"a": torch.tensor([0.0, 0.0, 0.0, 1e-45])}),
        content_hash(CONFIG, saved | {"b": torch.zeros(4)}),
        content_hash(CONFIG, {"a": saved["b"], "b": saved["a"]}),
    ]
    assert len(set(changes)) == len(changes)


def test_any_length_of_header_opens(tmp_path):
    """The file starts with that length, so its first byte is, by chance, the one with which pickles start."""
    for i in range(33):
        path = tmp_path / f"{i}.safetensors"
        save_bundle(path, CONFIG, {"a": torch.zeros(1)}, note="x" * 8 * i)
        assert load_bundle(path).meta["note"] == "x" * 8 * i


def spoil(kind: str, path) -> None:
    if kind == "truncated":
        save_bundle(path, CONFIG, weights())
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "cut in the header":
        save_bundle(path, CONFIG, weights())
        path.write_bytes(path.read_bytes()[:50])
    elif kind == "empty":
        path.touch()
    elif kind == "pickle":
        torch.save({"state_dict": weights()}, path)
    elif kind == "old pickle":
        torch.save({"state_dict": weights()}, path, _use_new_zipfile_serialization=False)
    elif kind == "foreign":
        save_file({"a": torch.zeros(2)}, path)
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")


REASONS = {
    "truncated": "truncated",
    "cut in the header": "truncated",
    "empty": "empty",
    "pickle": "pickled",
    "old pickle": "pickled",
    "foreign": "not a bundle",
    "text": "not a safetensors file",
    "missing": "no such file",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_file_that_is_no_bundle_is_one_line(kind, tmp_path):
    path = tmp_path / "w.safetensors"
    spoil(kind, path)
    with pytest.raises(BundleError, match=rf"^{re.escape(str(path))}: [^\n]*{REASONS[kind]}[^\n]*$"):
        load_bundle(path)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_bundle(path, CONFIG, {"a": torch.ones(3)})
    before = path.read_bytes()

    def disk_full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_bundle(path, CONFIG, {"a": torch.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_with_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*picture.png"):
        write_atomically(tmp_path / "picture.png", b"pixels")
    assert not list(tmp_path.iterdir())


def test_what_is_flushed_was_opened_for_writing(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")  # as Windows asks, where this cannot run
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE))
    write_atomically(tmp_path / "picture.png", b"pixels")
    assert flushed == [os.O_RDWR]


@pytest.mark.parametrize("length", [1, 5, 8])
def test_a_few_bytes_are_truncated_and_no_pickle(tmp_path, length):
    (tmp_path / "x.safetensors").write_bytes(b"\x80" * length)
    with pytest.raises(BundleError, match=f"{length} bytes, truncated"):
        load_bundle(tmp_path / "x.safetensors")


def test_processes_of_one_number_on_two_machines_write_to_names_of_their_own(tmp_path, monkeypatch):
    names = []
    for host in ("one", "two"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        with _replacing(tmp_path / "file") as partial:
            partial.touch()
            names.append(partial)
    assert names[0] != names[1]
