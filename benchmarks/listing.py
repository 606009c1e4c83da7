"""How long a folder of many pictures takes before training can begin: to list it, and to name its cache.

    python benchmarks/listing.py                      # 100,000, with metadata.jsonl and with a .txt beside each
    python benchmarks/listing.py --pictures 1000

Prints seconds, and seconds of one core: nothing is decoded, so pictures may be links to one file.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image

from ldm.core.gaussian import Gaussian
from ldm.data.caching import named
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.data.parts import FolderParts
from ldm.data.shards import Encoders

LINKS = 50_000  # to one file: file systems allow 65,000


def make(folder: Path, count: int, layout: str) -> Path:
    """A folder of `count` hard links to a few pictures, captioned as `layout` says: "metadata" or "text"."""
    folder.mkdir()
    for i in range(count):
        if i % LINKS == 0:
            source = folder.parent / f"{layout}-{i}.png"
            Image.new("RGB", (32, 32)).save(source)
        (folder / f"{i:07}.png").hardlink_to(source)
        if layout == "text":
            (folder / f"{i:07}.txt").write_text(f"picture {i}")
    if layout == "metadata":
        rows = (json.dumps({"file_name": f"{i:07}.png", "caption": f"picture {i}"}) for i in range(count))
        (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def timed(name: str, call: Callable[..., Any], *given: Any) -> Any:
    """What a call returns; its wall and processor seconds are printed."""
    wall, core = time.perf_counter(), time.process_time()
    found = call(*given)
    print(f"{name:24} {time.perf_counter() - wall:8.2f} s {time.process_time() - core:8.2f} s of a core")
    return found


def main() -> None:
    """Time what happens to a large folder before the first step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    options = parser.parse_args()
    none = Encoders(lambda x: Gaussian(x, x), lambda captions: {}, ("none",))
    with tempfile.TemporaryDirectory() as directory:
        for layout in ("metadata", "text"):
            root = make(Path(directory) / layout, options.pictures, layout)
            folder = timed(f"{layout}: listed", ImageFolder, FolderSpec(path=str(root), size=32))
            timed(f"{layout}: cache named", named, FolderParts(folder, 1, 0), none, Path(directory))


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
