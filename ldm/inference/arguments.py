"""The options that draw from a picture or between two prompts; nothing heavy is imported to say what they are."""

import argparse
from pathlib import Path

OTHER_NAMES = {  # what other programs call an option, for people who come from there
    **dict.fromkeys(["--cfg", "--cfg-scale", "--cfg_scale", "--guidance-scale", "--guidance_scale"], "--scale"),
    **dict.fromkeys(["--num-images", "--num_images", "--n-samples", "--n_samples", "--n_iter", "--samples"], "--count"),
    **dict.fromkeys(["--ddim-steps", "--ddim_steps", "--num-inference-steps", "--num_inference_steps"], "--steps"),
    **dict.fromkeys(["--negative-prompt", "--negative_prompt"], "--negative"),
    **dict.fromkeys(["--init-img", "--init_img", "--init-image", "--init_image"], "--image"),
    **dict.fromkeys(["--denoising-strength", "--denoising_strength", "--strength-img"], "--strength"),
    **dict.fromkeys(["--ckpt", "--checkpoint", "--weights"], "--model"),
    **dict.fromkeys(["--outdir", "--output", "--save-dir"], "--out"),
    **dict.fromkeys(["--scheduler", "--sampler_name", "--sampler-name"], "--sampler"),
    **dict.fromkeys(["--precision"], "--dtype"),
}


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """Options of `ldm.inference.sources`, and of drawing a picture again."""
    p = parser.add_argument_group("from a picture (docs/pictures.md)")
    p.add_argument("--image", type=Path, metavar="FILE", help="start from this picture")
    p.add_argument("--strength", type=float, help="0 keeps the picture, 1 nothing of it; 0.6, or 1 with a mask")
    p.add_argument("--mask", type=Path, metavar="FILE", help="draw where it is white, keep the rest to the pixel")
    p.add_argument("--extend", metavar="L,T,R,B", help="pixels to draw beyond the left, top, right and bottom edge")
    p.add_argument("--feather", type=int, help="pixels over which what is drawn fades in; 4")
    p.add_argument("--resample", type=int, help="walk each step so often, to agree with what is kept; 1")
    p.add_argument("--vary", type=float, metavar="S", help="draw the picture again with this share of its noise new")
    p.add_argument("--from-picture", type=Path, metavar="PNG", help="draw a picture of this program again")
    p = parser.add_argument_group("between two pictures")
    p.add_argument("--to-prompt", help="the prompt at the other end")
    p.add_argument("--to-seed", type=int, help="the seed at the other end")
    p.add_argument("--frames", type=int, help="pictures on the way there, both ends among them; 5")
    p.add_argument("--variation-seed", type=int, help="mix the noise of this seed (picture i: + i) into --seed's")
    p.add_argument("--variation-strength", type=float, help="share of it, 0 to 1; 0.1")
    parser.set_defaults(only=None, expected=None)  # of a picture that is drawn again
