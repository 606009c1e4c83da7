"""What we write, diffusers and transformers load; each network, and the whole drawing, gives what ours gives."""

import numpy as np
import pytest
import small
import torch
from PIL import Image

from ldm.convert.compvis import write_compvis
from ldm.convert.diffusers import write_diffusers
from ldm.convert.opening import open_model, read_parts
from ldm.core.rng import NoiseStream
from ldm.denoiser import bind
from ldm.inference.canvas import Canvas
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.start import Start
from ldm.nets.cond import Cond

diffusers = pytest.importorskip("diffusers")

# Without "!": as the padding of generation 2 it is a special token to transformers, and no word to open_clip and to us.
TEXTS = ["", "a red apple", "Two  DOGS, naïve café?", "far too long " * 40]


@pytest.fixture(scope="module", params=small.MODELS)
def both(request, tmp_path_factory):
    """The same weights as a model of ours and as a pipeline of diffusers, through a folder."""
    folder = tmp_path_factory.mktemp("diffusers")
    write_diffusers(small.made(request.param), folder)
    kind = diffusers.StableDiffusionPipeline
    if "inpainting" in request.param:
        kind = diffusers.StableDiffusionInpaintPipeline
    pipeline = kind.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return open_model(folder), pipeline


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


@torch.no_grad()
def test_unet(both):
    model, pipeline = both
    config = pipeline.unet.config
    x, steps = torch.randn(3, config.in_channels, 8, 12), torch.tensor([0.0, 500.0, 999.0])
    tokens = torch.randn(3, 77, config.cross_attention_dim)
    cond = Cond(tokens, channels=x[:, 4:] if config.in_channels > 4 else None)
    assert_equal(model.denoise.net(x[:, :4], steps, cond), pipeline.unet(x, steps, tokens).sample)


@torch.no_grad()
def test_autoencoder(both):
    model, pipeline = both
    x = torch.rand(2, 3, 24, 32) * 2 - 1
    posterior, expected = model.codec.posterior(x), pipeline.vae.encode(x).latent_dist
    scale = pipeline.vae.config.scaling_factor
    assert scale == 0.18215
    assert_equal(posterior.mean, expected.mean * scale)
    assert_equal(posterior.var.sqrt(), expected.std * scale)
    z = torch.randn(2, 4, 6, 8)
    assert_equal(model.codec.decode(z), pipeline.vae.decode(z / scale).sample)


@torch.no_grad()
def test_text(both):
    model, pipeline = both
    theirs = pipeline.tokenizer(TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    ids, _ = model.text.tokenize(TEXTS)
    assert torch.equal(ids, theirs.input_ids)
    assert_equal(model.text(TEXTS).tokens, pipeline.text_encoder(theirs.input_ids)[0])


def test_schedule(both):
    model, pipeline = both
    scheduler = pipeline.scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    alpha_bar = model.schedule((torch.arange(1000, dtype=torch.float64) + 1) / 1000).sigmoid()
    torch.testing.assert_close(alpha_bar, scheduler.alphas_cumprod.double(), rtol=1e-5, atol=0)
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]
    assert (scheduler.config.steps_offset, scheduler.config.clip_sample) == (1, False)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("both", ["1", "2-base", "2-v"], indirect=True)
def test_picture(both, steps):
    model, pipeline = both
    request = Request(
        prompts=("a red apple", "two dogs"),
        seeds=(3, 4),
        negative="blue",
        steps=steps,
        scale=4.0,
        sampler="ddim",
        spacing="stable_diffusion",
        height=32,
        width=48,
    )
    noise = NoiseStream(request.seeds).normal((2, 4, 8, 12), like=torch.empty(0))
    expected = pipeline(
        list(request.prompts),
        negative_prompt=["blue"] * 2,
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=4.0,
        height=32,
        width=48,
        output_type="latent",
    ).images
    picture = pipeline.vae.decode(expected / 0.18215).sample.clamp(-1, 1)
    ours = txt2img(model, request, dtype=torch.float32)
    assert_equal(ours, picture)
    assert (ours[0] - ours[1]).abs().max() > 0.1 * ours.std()


@torch.no_grad()
def test_the_networks_prediction_is_what_the_file_says(both):
    model, pipeline = both
    extra = model.config.net.cond_channels
    x, tokens = torch.randn(2, 4, 8, 8), model.text(TEXTS[1:3]).tokens
    channels = torch.randn(2, extra, 8, 8) if extra else None
    logsnr = model.schedule(torch.full((2,), 0.601, dtype=torch.float64))
    ours = bind(model.denoise, Cond(tokens, channels=channels))(x, logsnr).x0
    joined = x if channels is None else torch.cat([x, channels], 1)
    pipeline.scheduler.set_timesteps(10)
    out = pipeline.unet(joined, torch.full((2,), 600), tokens).sample
    assert_equal(ours, pipeline.scheduler.step(out, 600, x).pred_original_sample)


@pytest.mark.parametrize("both", ["1", "2-v"], indirect=True)
def test_files_go_both_ways(both, tmp_path):
    """diffusers reads our single file as it reads our folder, and we read the folder that it writes itself."""
    model, pipeline = both
    parts = read_parts(model.folder)
    write_compvis(parts, tmp_path / "single.safetensors")
    single = diffusers.StableDiffusionPipeline.from_single_file(
        str(tmp_path / "single.safetensors"), config=str(model.folder), local_files_only=True
    )
    for name in ("unet", "vae", "text_encoder"):
        theirs, expected = (getattr(p, name).state_dict() for p in (single, pipeline))
        assert theirs.keys() == expected.keys() and all(torch.equal(theirs[n], expected[n]) for n in theirs)
    pipeline.save_pretrained(tmp_path / "theirs")
    assert small.same(read_parts(tmp_path / "theirs"), parts)


@torch.no_grad()
@pytest.mark.parametrize("both", ["1-inpainting", "2-inpainting"], indirect=True)
def test_inpainted_picture(both, monkeypatch):
    model, pipeline = both
    posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(posterior, "sample", lambda self, generator=None: self.mode())  # what it adds is noise
    pixels = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    mask = torch.zeros(32, 48, dtype=torch.bool)
    mask[8:24, 16:44] = True
    request = Request(
        prompts=("a red apple",),
        seeds=(3,),
        negative="blue",
        steps=5,
        scale=4.0,
        sampler="ddim",
        spacing="stable_diffusion",
        start=Start(canvas=Canvas(pixels, mask, feather=0)),
    )
    begin = []
    hook = model.denoise.register_forward_pre_hook(lambda module, given: begin.append(given[0]))
    ours = txt2img(model, request, dtype=torch.float32)
    hook.remove()
    expected = pipeline(
        "a red apple",
        negative_prompt="blue",
        image=Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0))),
        mask_image=Image.fromarray(255 * mask.numpy().astype(np.uint8)),
        latents=begin[0][:1].clone(),
        num_inference_steps=5,
        guidance_scale=4.0,
        height=32,
        width=48,
        strength=1.0,
        output_type="latent",
    ).images
    picture = pipeline.vae.decode(expected / 0.18215).sample.clamp(-1, 1)
    assert_equal(ours[:, :, mask], picture[:, :, mask])
    kept = 2 * pixels[None].float() / 255 - 1
    torch.testing.assert_close(ours[:, :, ~mask], kept[:, :, ~mask], atol=1e-6, rtol=0)
