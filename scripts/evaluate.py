#!/usr/bin/env python3
"""Print the figures of a model: reconstruction, concept accuracy, distances, choice of captions."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji", help="model or diffusers folder, or file")
    p.add_argument("--prediction", choices=["eps", "v"], help="what a file's network predicts, where no file says it")
    p.add_argument("--variant", metavar="NAME", help="which weights: ema, non_ema, fp16, ... where there are several")
    p.add_argument("--allow-pickle", action="store_true", help="read .ckpt and .bin files: tensors, nothing is run")
    p.add_argument("--autoencoder", type=Path, help="bundle of stage 1, with --what autoencoder instead of --model")
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji", help="folder of train and heldout_*")
    what = ["autoencoder", "captions", "concepts", "keywords", "words", "heldout", "all"]
    p.add_argument("--what", default="all", choices=what, help="which table (default: all)")
    p.add_argument("--literal", action="store_true", help="as of txt2img.py")
    p.add_argument("--samples", type=int, default=200, help="pictures to draw for each table")
    p.add_argument("--seed", type=int, default=0, help="of the concepts, backgrounds and drawn pictures")
    p.add_argument("--steps", type=int, default=20, help="network evaluations along the path")
    p.add_argument("--scale", type=float, help="classifier-free guidance (default: the model's)")
    p.add_argument("--sampler", help="as of txt2img.py (default: what the model chooses for these steps)")
    p.add_argument("--spacing", help="as of txt2img.py")
    p.add_argument("--option", action="append", metavar="KEY=VALUE", help="of the sampler, e.g. eta=1")
    p.add_argument("--size", type=int, help="pixels (default: the model's; 128 with --autoencoder)")
    p.add_argument("--batch", type=int, default=32, help="pictures drawn together")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    p.add_argument("--grid", type=Path, help="PNG to write: the first 32 drawn pictures of each table")
    return p


def main() -> None:
    options = parsed(parser())
    from autoencoder.metrics import psnr, ssim
    from autoencoder.perceptual import load_lpips, perceptual_distance
    from ldm.core.device import pick_device
    from ldm.evaluation.command import evaluate
    from ldm.inference.command import show_progress
    from ldm.inference.options import check_spacing, sampler_options
    from ldm.inference.pipeline import Request, resolve, txt2img

    def measures():
        return {"PSNR (dB)": psnr, "SSIM": ssim, "LPIPS (alex)": partial(perceptual_distance, load_lpips("alex"))}

    def painter(model):
        how = {name: getattr(options, name) for name in ("steps", "scale", "sampler", "spacing", "batch")}
        given = None if options.option is None else sampler_options(options.option)
        how |= {"height": options.size, "width": options.size, "options": given}
        same = Request(prompts=("",), seeds=(0,), **how)
        return resolve(model, same), lambda prompts, seeds: txt2img(
            model, replace(same, prompts=tuple(prompts), seeds=tuple(seeds)), on_step=show_progress
        )

    check_spacing(options.spacing)
    for text in evaluate(options, pick_device(options.device), measures, painter):
        print(text, end="\n\n", flush=True)


if __name__ == "__main__":
    run(main)
