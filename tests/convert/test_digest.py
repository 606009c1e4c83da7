"""Hashes of files: those of the content, computed once, and again when the file changes."""

import hashlib

from ldm.convert import digest


def test_hash_is_that_of_the_content_and_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert digest.file_sha256(path) == digest.files_sha256([path]) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(digest.hashlib, "file_digest", None)  # would fail if the file were read again
    assert digest.file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.undo()
    path.write_bytes(b"two!")
    assert digest.file_sha256(path) == hashlib.sha256(b"two!").hexdigest()


def test_files_that_are_gone_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(name.encode())
        digest.file_sha256(tmp_path / name)
        (tmp_path / name).unlink()
    memory = (tmp_path / "cache" / "ldm" / "sha256.json").read_text()
    assert "second:" in memory and "first:" not in memory


def test_without_room_to_remember_nothing_is_lost(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where a folder is needed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").write_bytes(b"one")
    assert digest.file_sha256(tmp_path / "file") == hashlib.sha256(b"one").hexdigest()


def test_several_files_have_one_hash_that_knows_their_order(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [tmp_path / "x", tmp_path / "y"]
    for path in paths:
        path.write_bytes(path.name.encode())
    assert digest.files_sha256(paths) != digest.files_sha256(paths[::-1])
