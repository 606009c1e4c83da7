"""How a script ends when it is one process of many: its exit functions run, and the interpreter is not taken apart."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from ldm.core.command import parsed

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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", "x"], "argument --steps: invalid int value: 'x'; --help lists the options"),
        (["--stpes=3"], "--stpes: unknown, did you mean --steps?; --help lists the options"),
        (["--cfg", "3"], "--cfg: unknown, did you mean --scale?; --help lists the options"),
        ([""], "'': unknown; --help lists the options"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(words, said, monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=0, help="how many")
    parser.add_argument("--scale", type=float, help="how strong")
    parser.add_argument("--quiet", action="store_true", help="say less")
    monkeypatch.setattr(sys, "argv", ["script", *words])
    with pytest.raises(ValueError) as refused:
        parsed(parser, {"--cfg": "--scale"})
    assert str(refused.value) == said and capsys.readouterr() == ("", "")
    told = parser.format_help()
    assert "how many (default: 0)" in told and told.count("default") == 1
    monkeypatch.setattr(sys, "argv", ["script", "--steps", "4"])
    assert parsed(parser).steps == 4 and parser.format_help() == told
