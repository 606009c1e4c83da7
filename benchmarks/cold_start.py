"""From a command to a picture: wall time and peak memory of `scripts/txt2img.py` as a fresh process, and of `--help`.

    python benchmarks/cold_start.py                          # 5 runs of the shipped model, 1 picture, 20 steps
    python benchmarks/cold_start.py --runs 3 -- --model runs/ldm/model --steps 10

What stands after `--` is passed to the script. Every run starts a new interpreter; the files it reads are in the
system's page cache after the first. Runs on Linux and macOS, on an otherwise idle machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "txt2img.py"
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of one unit of ru_maxrss


def once(*options: str) -> tuple[float, float]:
    """Run the script once: wall seconds, and the peak of its resident memory in MB.

    A child's peak starts at what this process held when it forked, so this file imports nothing large.

    Raises:
        ValueError: the script failed; the message is its own.
    """
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, SCRIPT, *options], stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise ValueError(f"{SCRIPT.name} ended with {process.returncode}: {errors.read().strip()[-500:]}")
    return seconds, used.ru_maxrss * RSS_UNIT / 1e6


def main() -> None:
    """Print seconds and peak memory of whole processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes of each kind")
    parser.add_argument("script_options", nargs="*", metavar="-- OPTIONS", help="passed to the script")
    options = parser.parse_args()
    if options.runs < 1:
        raise ValueError(f"--runs: {options.runs}; give 1 or more")
    with tempfile.TemporaryDirectory() as out:
        drawn = ["--prompt", "a red apple", "--steps", "20", "--out", out, *options.script_options]
        for name, command in (("--help", ["--help"]), ("one picture", drawn)):
            runs = [once(*command) for _ in range(options.runs)]
            seconds, megabytes = zip(*runs, strict=True)
            print(
                f"{name}: median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
                f"peak memory {max(megabytes):.0f} MB, {options.runs} runs, {os.cpu_count()} cores"
            )


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
