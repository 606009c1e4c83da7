#!/usr/bin/env python3
"""Draw pictures from a prompt."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UPSCALER = ROOT / "models" / "emoji-upscaler"
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run
from ldm.inference.arguments import OTHER_NAMES, add_picture_options


def parser() -> argparse.ArgumentParser:
    """The options; everything heavy is imported only after they were read."""
    p = argparse.ArgumentParser(description=__doc__)
    switch = argparse.BooleanOptionalAction  # a picture that is drawn again may have it on
    p.add_argument("--prompt", help="what to draw (default, of the shipped model: 'a red apple')")
    p.add_argument("--style", help="how to draw a prompt without a comma, which does not say; '': as it is")
    p.add_argument("--literal", action="store_true", help="read what the model never met as it is, not as the nearest")
    p.add_argument("--negative", default="", help="what to move away from")
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji", help="model or diffusers folder, or file")
    p.add_argument("--prediction", choices=["eps", "v"], help="what a file's network predicts, where no file says it")
    p.add_argument("--variant", metavar="NAME", help="which weights: ema, non_ema, fp16, ... where there are several")
    p.add_argument("--allow-pickle", action="store_true", help="read .ckpt and .bin files: tensors, nothing is run")
    p.add_argument("--turbo", action="store_true", help="one network evaluation a picture: models/emoji-turbo")
    p.add_argument(
        "--lora", action="append", default=[], metavar="FILE[:SCALE]", help="of finetune.py, diffusers or kohya"
    )
    p.add_argument("--embedding", action="append", default=[], type=Path, metavar="FILE", help="a learned word")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder of the PNGs")
    p.add_argument("--count", type=int, default=1, help="pictures; picture i has seed + i")
    p.add_argument("--seed", type=int, default=0, help="0 or more")
    p.add_argument("--steps", type=int, help="network evaluations along the path")
    p.add_argument("--scale", type=float, help="classifier-free guidance; 1 is the plain model")
    p.add_argument("--guidance", action="append", metavar="KEY=VALUE", help="rule, contrast, lo, hi, ... of guidance")
    p.add_argument("--weak", type=Path, metavar="MODEL", help="a weaker model to move away from (autoguidance)")
    p.add_argument("--weak-scale", type=float, help="strength of that; 1 is none, 2 the default")
    p.add_argument("--classifier", type=Path, metavar="FILE", help="steer by one of train_classifier.py ...")
    p.add_argument("--label", help="... towards this class of it")
    p.add_argument("--classifier-scale", type=float, help="strength; 0 is none, 1, the default, is Bayes' rule")
    p.add_argument("--sampler", help="ddim, dpm_solver, unipc, heun, euler_ancestral, adaptive, ...")
    p.add_argument("--option", action="append", metavar="KEY=VALUE", help="of the sampler, e.g. eta=1")
    p.add_argument("--spacing", help="trailing, leading, linspace, karras, uniform_logsnr, tuned_ode, ...")
    p.add_argument(
        "--upscale", type=Path, nargs="?", const=UPSCALER, metavar="FOLDER", help="twice the size, by an upscaler"
    )
    p.add_argument("--width", type=int, help="pixels")
    p.add_argument("--height", type=int, help="pixels")
    p.add_argument("--batch", type=int, default=8, help="pictures computed together")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    p.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float16", "float32"])
    p.add_argument("--attention", default="auto", choices=["auto", "sdpa", "xformers", "plain"], help="its kernel")
    p.add_argument("--tile", action=switch, default=False, help="decode in strips: less memory, the same picture")
    p.add_argument("--need", action="store_true", help="always print the memory that it takes")
    p.add_argument("--offload", action="store_true", help="keep on the GPU only the part that is at work")
    p.add_argument(
        "--compile", action=switch, default=False, help="compile the U-Net: a slow first step, then faster ones"
    )
    add_picture_options(p)
    return p


def main() -> None:
    """Parse, draw, say where the pictures are."""
    p = parser()
    p.set_defaults(models=ROOT / "models", unspelled=False)
    arguments = parsed(p, OTHER_NAMES)
    if arguments.from_picture is not None:
        from ldm.inference.redraw import remembered

        p.set_defaults(**remembered(arguments.from_picture, ROOT / "models"))
        arguments = parsed(p)
    arguments.model_given = arguments.turbo or arguments.model != p.get_default("model")
    if arguments.turbo and arguments.model != p.get_default("model"):
        raise ValueError(f"--turbo, --model: the one means models/emoji-turbo, the other {arguments.model}; give one")
    if arguments.turbo:
        arguments.model = ROOT / "models" / "emoji-turbo"
    if arguments.prompt is None:
        if arguments.model_given:
            raise ValueError('--prompt: say what to draw, e.g. --prompt "a red apple"')
        arguments.prompt = "a red apple"
    from ldm.inference.command import draw

    for path in draw(arguments):
        print(path)


if __name__ == "__main__":
    run(main)
