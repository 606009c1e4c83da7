"""From a command to a picture: `scripts/txt2img.py` beside a program that does the same with diffusers.

    python benchmarks/txt2img.py                       # 5 processes of each, 20 steps, 256x256, a small random model
    python benchmarks/txt2img.py --runs 3 --size 512

Every run is a process of its own, from start to PNG; both read one diffusers folder with random weights, draw the same
prompt by DDIM with guidance 7.5 in bfloat16, and take turns. The model has every level of Stable Diffusion 1 (8 pixels
to a latent) at a fifth of its width: 35 M parameters, about those of the shipped model. The larger the picture, the
more of the time is the networks' and the less the start's; benchmarks/unet.py and decode.py compare those.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "convert")]

from benchmarks.beside import in_turn

PROMPT = "a red apple on a table"
THEIRS = """
import sys
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
folder, out, steps, size, prompt = sys.argv[1:]
pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16, local_files_only=True)
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
how = {"num_inference_steps": int(steps), "guidance_scale": 7.5, "height": int(size), "width": int(size)}
drawn = pipeline(prompt, **how, generator=torch.Generator().manual_seed(0))
drawn.images[0].save(out + "/theirs.png")
"""


def write_model(folder: Path) -> None:
    """A model of Stable Diffusion 1's structure at a fifth of its width, as a diffusers folder."""
    import small  # type: ignore[import-not-found]
    import torch

    from autoencoder.model import AutoencoderSpec
    from ldm.convert.diffusers import write_diffusers
    from ldm.convert.recipe import text_spec
    from ldm.nets.unet import UNetSpec

    torch.manual_seed(0)
    net = UNetSpec(channels=64, heads=8, context_dim=256, mult=(1, 2, 4, 4), attention_levels=(0, 1, 2))
    text = text_spec(1, 256, 4, heads=4, pad="eot")
    write_diffusers(small.random_parts(net, AutoencoderSpec(channels=32, mult=(1, 2, 4, 4)), text, "eps"), folder)


def run_program(*command: str | Path) -> None:
    """Run a program to its end.

    Raises:
        ValueError: it failed; the message is its own.
    """
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the program ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def main() -> None:
    """Print the medians of whole processes and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="of the picture, pixels")
    options = parser.parse_args()
    steps, size = str(options.steps), str(options.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        write_model(folder)
        asked: list[str | Path] = [
            "--prompt",
            PROMPT,
            "--model",
            folder,
            "--out",
            name,
            "--steps",
            steps,
            "--scale",
            "7.5",
        ]
        asked += ["--sampler", "ddim", "--width", size, "--height", size, "--dtype", "bfloat16"]
        programs = {
            "ours": lambda: run_program(sys.executable, ROOT / "scripts" / "txt2img.py", *asked),
            "diffusers": lambda: run_program(sys.executable, "-c", THEIRS, folder, name, steps, size, PROMPT),
        }
        taken = in_turn(programs, options.runs)
    for program in programs:
        print(f"{program}: median {taken.median(program):.2f} s of {options.runs} processes")
    print(f"ours / diffusers: {taken.ratio('ours', 'diffusers'):.2f}")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
