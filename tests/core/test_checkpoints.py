"""Checkpoints stay whole: the last few are kept, a full disk costs only the new one, and a folder has one writer."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldm.core.checkpoints import LAST, WholeCheckpoints
from ldm.core.lock import claimed

ROOT = Path(__file__).parents[2]


def state(step: int, size: int = 10) -> dict:
    return {"global_step": step, "weights": torch.full((size,), float(step))}


@pytest.mark.parametrize(("keep", "names"), [(1, []), (2, ["step-00000003.ckpt", "step-00000004.ckpt"])])
def test_the_last_few_stay_under_their_step(keep, names, tmp_path):
    writer = WholeCheckpoints(keep)
    for step in (1, 2, 3, 4, 4):
        writer.save_checkpoint(state(step), tmp_path / LAST)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, *names]
    assert torch.load(tmp_path / LAST)["global_step"] == 4
    for name in names:
        assert torch.load(tmp_path / name)["weights"][0] == int(name[5:-5])


def test_in_a_folder_that_was_begun_again_the_new_ones_stay(tmp_path):
    for step in (400, 600):
        WholeCheckpoints(2).save_checkpoint(state(step), tmp_path / LAST)
    (tmp_path / LAST).unlink()
    for step in (100, 200):
        WholeCheckpoints(2).save_checkpoint(state(step), tmp_path / LAST)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, "step-00000100.ckpt", "step-00000200.ckpt"]


def test_a_disk_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def refused(self, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refused)
    for step in (1, 2, 3):
        WholeCheckpoints(2).save_checkpoint(state(step), tmp_path / LAST)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, "step-00000002.ckpt", "step-00000003.ckpt"]
    assert torch.load(tmp_path / "step-00000002.ckpt")["weights"][0] == 2


def test_a_file_that_outgrows_its_room_leaves_the_former_one_whole(tmp_path):
    """The limit on a file's size stands for the end of the disk: the operating system refuses to write on."""
    writer = WholeCheckpoints(2)
    writer.save_checkpoint(state(1), tmp_path / LAST)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="not written .* the former checkpoint is whole") as error:
            writer.save_checkpoint(state(2, size=1_000_000), tmp_path / LAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, "step-00000001.ckpt"]
    assert torch.load(tmp_path / LAST)["global_step"] == 1


def test_a_full_disk_at_the_last_moment_is_the_same(tmp_path, monkeypatch):
    writer = WholeCheckpoints()
    writer.save_checkpoint(state(1), tmp_path / LAST)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        writer.save_checkpoint(state(2), tmp_path / LAST)
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert torch.load(tmp_path / LAST)["global_step"] == 1


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    hold = f"from pathlib import Path\nfrom ldm.core.lock import claimed\nwith claimed(Path({str(tmp_path)!r})):\n"
    hold += "    print('held', flush=True)\n    input()"
    process = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="--out: another process is writing to"), claimed(tmp_path):
        pass
    process.kill()  # kill -9: nothing is left to clean up
    process.communicate()
    with claimed(tmp_path):
        pass


def test_the_other_processes_of_a_run_do_not_claim(tmp_path, monkeypatch):
    with claimed(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with claimed(tmp_path):  # beside the first
            monkeypatch.setenv("RANK", "0")
            with pytest.raises(ValueError, match="--out: another process is writing to"), claimed(tmp_path):
                pass  # which still holds it
