"""How a script ends when it is one process of many: its exit functions run, and the interpreter is not taken apart."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import atexit, sys, tempfile
import torch
from ldm.core.command import run

class Held:
    def __del__(self):
        print("taken apart")

held = Held()
held.itself = held
atexit.register(print, "exit functions ran")

def main():
    if sys.argv[1] == "many":
        store = torch.distributed.FileStore(tempfile.mkdtemp() + "/store", 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    print("worked")
    if sys.argv[2] == "wrong":
        raise ValueError("data: not there")

run(main)
"""


@pytest.mark.parametrize(("ending", "code", "said"), [("well", 0, ""), ("wrong", 2, "error: data: not there\n")])
@pytest.mark.parametrize(("others", "after"), [("many", []), ("alone", ["taken apart"])])
def test_a_process_of_many_ends_before_the_interpreter_is_taken_apart(others, after, ending, code, said):
    command = [sys.executable, "-c", SCRIPT, others, ending]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (code, said)
    assert ended.stdout.splitlines() == ["worked", "exit functions ran", *after]
