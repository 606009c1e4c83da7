"""Distillation: a student starts as its teacher, is shown the right targets, and comes out as a model that draws."""

import json
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import stages
import torch
from PIL import Image

from ldm.config import RunConfig
from ldm.core.bundle import load_bundle, save_bundle
from ldm.core.config_io import load
from ldm.core.one_run import DATA, MODEL, remember
from ldm.core.rng import NoiseStream
from ldm.data.content import content_of
from ldm.data.folder import FolderSpec, read_listing
from ldm.denoiser import bind, counted
from ldm.guidance.free import classifier_free
from ldm.inference.pipeline import Request, txt2img
from ldm.model_folder import LDM, load_model
from ldm.nets.text import ClipSpec
from ldm.process.conditionals import q_sample
from ldm.process.grid import TimeGrid, spaced
from ldm.samplers import ddim
from ldm.training.distill import GUIDANCE, TOGETHER, Distillation, DistillConfig, student_config
from ldm.training.distill_fit import _with, distill

B = 6
PROMPTS = ["a red circle", "a blue square", "", "a green circle", "a black square", "a red square"]


@pytest.fixture(scope="module")
def config(model_folder):
    recipe = stages.ROOT / "configs/smoke/distill.yaml"
    return load(recipe, DistillConfig, [f"teacher={model_folder}", "first=4", "rehearsed=0.5"])


@pytest.fixture(scope="module")
def teacher(model_folder):
    return load_model(model_folder)


@pytest.fixture
def student(teacher, config):
    made = _with(teacher, student_config(teacher.config, config), dict(teacher.denoise.net.state_dict()))
    with torch.no_grad():  # as after some training: it reads scale and stride
        made.denoise.net.distilled_embed.linear2.weight.normal_(0, 0.02)
    return made


def noisy(teacher, level):
    x0 = torch.randn(B, 4, 4, 4)
    eps, logsnr = torch.randn_like(x0), torch.full((B,), level)
    return x0, eps, logsnr, q_sample(x0, eps, logsnr)


def batch(teacher):
    cond = teacher.condition(PROMPTS)
    return {"mean": torch.randn(B, 4, 4, 4), "var": torch.ones(B, 4, 4, 4), **cond.present()}


def test_a_student_starts_as_its_teacher_whatever_scale_and_stride(teacher, config):
    new = _with(teacher, student_config(teacher.config, config), dict(teacher.denoise.net.state_dict()))
    _, _, logsnr, x_t = noisy(teacher, 0.5)
    cond = teacher.condition(PROMPTS)
    asked = replace(cond, scale=torch.linspace(1, 4, B), stride=torch.linspace(0, 1, B))
    with torch.no_grad():
        found = new.denoise(x_t, logsnr, asked).x0
        torch.testing.assert_close(found, teacher.denoise(x_t, logsnr, cond).x0)


def test_in_the_first_stage_the_target_is_the_guided_teacher(teacher, student, config):
    stage = Distillation(student, teacher, GUIDANCE, config)
    x0, eps, _, _ = noisy(teacher, 0.0)
    scales, u = torch.linspace(1, 4, B), torch.linspace(0.05, 0.95, B)
    cond = replace(teacher.condition(PROMPTS), scale=scales)
    logsnr, target, stride = stage.lesson(x0, eps, u, u, cond)
    assert torch.equal(logsnr, student.schedule(u)) and not stride.any()
    for i, scale in enumerate(scales.tolist()):
        row, null = teacher.condition([PROMPTS[i]]), teacher.condition([""])
        x_t = q_sample(x0[[i]], eps[[i]], logsnr[[i]])
        with torch.no_grad():
            expected = classifier_free(teacher.denoise, row, null, scale)(x_t, logsnr[[i]]).x0
        torch.testing.assert_close(target[[i]], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 1])
def test_one_step_to_the_target_lands_where_two_of_the_teacher_do(steps, teacher, student, config):
    stage = Distillation(student, student, steps, config)
    x0, eps, _, _ = noisy(teacher, 0.0)
    scales, u, pick = torch.linspace(1, 4, B), torch.linspace(0.01, 0.99, B), torch.linspace(0.0, 0.99, B)
    cond = replace(teacher.condition(PROMPTS), scale=scales)
    logsnr, target, stride = stage.lesson(x0, eps, u, pick, cond)
    new = B if steps == 4 else B // 2  # the first students have nothing to go over again
    grid, teachers = spaced(student.schedule, steps, "trailing"), spaced(student.schedule, 2 * steps, "trailing")
    own = 0.0 if steps == 4 else 1 / (2 * steps)
    for i in range(new):
        index = int(u[i] * steps)
        t, s = grid.logsnr[index].item(), grid.logsnr[index + 1].item()
        assert logsnr[i].item() == pytest.approx(t, rel=1e-6) and stride[i] == 1 / steps
        x_t = q_sample(x0[[i]], eps[[i]], logsnr[[i]])
        row = replace(teacher.condition([PROMPTS[i]]), scale=scales[[i]], stride=torch.tensor([own]))
        with torch.no_grad():
            walked = ddim.sample(bind(student.denoise, row), x_t, TimeGrid(teachers.logsnr[2 * index : 2 * index + 3]))
        torch.testing.assert_close(ddim.step(x_t, target[[i]], t, s), walked, rtol=1e-3, atol=1e-3)
    for i in range(new, B):
        former = round(1 / stride[i].item())
        assert former in (4, 2)
        assert logsnr[i].double() in spaced(student.schedule, former, "trailing").logsnr.float().double()
        row = replace(teacher.condition([PROMPTS[i]]), scale=scales[[i]], stride=stride[[i]])
        with torch.no_grad():
            said = bind(student.denoise, row)(q_sample(x0[[i]], eps[[i]], logsnr[[i]]), logsnr[[i]]).x0
        torch.testing.assert_close(target[[i]], said, rtol=1e-4, atol=1e-5)


def test_together_the_shortest_steps_come_from_the_teacher_and_the_others_from_the_student_itself(
    teacher, student, config
):
    stage = Distillation(student, teacher, TOGETHER, config)
    with torch.no_grad():  # the student has moved on; its average has not
        student.denoise.net.conv_in.weight.add_(0.01)
    averaged = _with(teacher, student.config, {n.removeprefix("net."): w for n, w in stage.ema.weights().items()})
    x0, eps, _, _ = noisy(teacher, 0.0)
    scales, u, pick = torch.linspace(1, 4, B), torch.linspace(0.01, 0.99, B), torch.tensor([0, 0, 0.1, 0.4, 0.6, 0.9])
    logsnr, target, stride = stage.lesson(x0, eps, u, pick, replace(teacher.condition(PROMPTS), scale=scales))
    assert stride.tolist() == [1 / 4] * 2 + [1 / 2] * 2 + [1] * 2  # a third each of four, two and one steps
    for i in range(B):
        steps = round(1 / stride[i].item())
        index = int(u[i] * steps)
        path = spaced(student.schedule, 2 * steps, "trailing").logsnr[2 * index : 2 * index + 3]
        t, s = path[0].item(), path[2].item()
        assert logsnr[i].item() == pytest.approx(t, rel=1e-6)
        x_t, row = q_sample(x0[[i]], eps[[i]], logsnr[[i]]), teacher.condition([PROMPTS[i]])
        own = bind(averaged.denoise, replace(row, scale=scales[[i]], stride=stride[[i]] / 2))
        guided = classifier_free(teacher.denoise, row, teacher.condition([""]), scales[i].item())
        with torch.no_grad():
            walked = ddim.sample(guided if steps == 4 else own, x_t, TimeGrid(path))
        torch.testing.assert_close(ddim.step(x_t, target[[i]], t, s), walked, rtol=1e-3, atol=1e-3)


def test_the_teacher_stays_and_the_student_learns(teacher, student, config):
    stage = Distillation(student, _with(teacher, student.config, student.denoise.net.state_dict()), 2, config)
    stage.loss(batch(teacher), NoiseStream([0])).mean().backward()
    assert all(p.grad is None for p in stage.teacher_net.parameters())
    assert all(p.grad is not None for name, p in stage.net.named_parameters() if name.startswith("distilled_embed"))


def test_gradients_are_shortened_to_the_configured_norm(teacher, student, config):
    stage = Distillation(student, teacher, GUIDANCE, replace(config, optim=replace(config.optim, clip=0.01)))
    stage._trainer = SimpleNamespace(precision_plugin=None)
    stage.loss(batch(teacher), NoiseStream([0])).mean().backward()
    stage.configure_gradient_clipping(stage.configure_optimizers()["optimizer"])
    gradients = [p.grad for p in stage.net.parameters() if p.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["first=6"], "first, last: 6 halved"),
        (["first=1", "last=2"], "first, last: 1 halved"),
        (["scales=[3, 2]"], "scales: .* do not rise"),
        (["scale=9"], "scale: 9.0 is outside"),
        (["rehearsed=1"], "rehearsed: 1.0 is not in"),
        (["init=models/emoji-turbo"], "set together to true"),
    ],
)
def test_a_distillation_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        load(stages.ROOT / "configs/smoke/distill.yaml", DistillConfig, changes)


def test_a_teacher_of_noise_is_refused(teacher, config):
    noise = replace(teacher.config, prediction=replace(teacher.config.prediction, kind="eps"))
    with pytest.raises(ValueError, match="fine-tune it to v first"):
        student_config(noise, config)
    with pytest.raises(ValueError, match="one that is distilled"):
        student_config(student_config(teacher.config, config), config)


def test_a_teacher_whose_text_encoder_learns_is_refused(teacher, config):
    with pytest.raises(ValueError, match="teacher: its text encoder learns .* distil a model with a frozen"):
        student_config(replace(teacher.config, text=ClipSpec(trainable=True)), config)


def test_stages_that_another_distillation_finished_are_not_taken_over(model_folder, config, shapes, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    data = replace(config.data, train=f"{shapes}/train", val=f"{shapes}/val", cache=f"{tmp_path}/cache")
    config = replace(config, data=data)
    begun = {DATA: content_of(read_listing(FolderSpec(path=data.train))), MODEL: load_model(model_folder).key}
    remember(config, begun, out)
    (out / "guidance").mkdir()
    (out / "guidance/student.safetensors").touch()
    with pytest.raises(ValueError, match="guidance/student.safetensors: the file is empty"):
        distill(replace(config, shared=True), out)  # the same distillation takes it
    faster = replace(config, optim=replace(config.optim, lr=0.5))
    with pytest.raises(ValueError, match=r"holds a run with optim.lr 0.001, and now it is 0.5;"):
        distill(faster, out)
    shutil.copytree(model_folder, other)
    bundle = load_bundle(other / LDM)
    save_bundle(other / LDM, bundle.config, {name: w + 0.01 for name, w in bundle.weights.items()}, **bundle.meta)
    with pytest.raises(ValueError, match="holds a run with another model;"):
        distill(replace(config, teacher=str(other)), out)


def options(model_folder, shapes, out, *changes):
    settings = [f"teacher={model_folder}", f"data.train={shapes}/train", f"data.val={shapes}/val"]
    settings += [f"data.cache={out.parent}/cache", "precision=32-true", *changes]
    return ["--config", "configs/smoke/distill.yaml", "--out", str(out), *stages._set(settings)]


@pytest.mark.slow
def test_a_killed_distillation_goes_on_to_the_same_bits_and_draws(model_folder, shapes, tmp_path, txt2img_of):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stages.finish(stages.start("distill", *options(model_folder, shapes, whole)))
    process = stages.start("distill", *options(model_folder, shapes, parts))
    while not (parts / "steps-2/last.ckpt").is_file():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stages.finish(stages.start("distill", *options(model_folder, shapes, parts, "shared=true")))
    for stage in ("guidance", "steps-2", "steps-1"):
        ours, theirs = (load_bundle(out / stage / "student.safetensors").weights for out in (parts, whole))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours), stage

    copied, shared = load_model(whole / "model"), load_model(parts / "model")  # in 16 and in 8 bits
    assert not (parts / "model/autoencoder.safetensors").exists()
    for steps in (1, 2):
        request = Request(prompts=("a red circle",), seeds=(0,), steps=steps)
        with counted(copied.denoise) as count:
            picture = txt2img(copied, request, dtype=torch.float32)
        assert count.rows == steps
        assert (txt2img(shared, request, dtype=torch.float32) - picture).abs().mean() < 0.05
    code, lines, files = txt2img_of(whole / "model")
    assert (code, lines) == (0, ["2 network evaluations for each picture"])
    assert json.loads(Image.open(files[0]).text["ldm"])["sampler"] == "ddim"
    assert "distilled with the empty prompt" in txt2img_of(whole / "model", "--negative", "a cat")[1][-1]
    assert "scale: 9.0 is not in 1 to 4" in txt2img_of(whole / "model", "--scale", "9")[1][-1]
    assert "choose only its scale" in txt2img_of(whole / "model", "--guidance", "rule=apg")[1][-1]


@pytest.fixture
def txt2img_of(txt2img):
    return lambda model, *words: txt2img(*words, model=model)


def test_the_recipe_of_the_shipped_model_halves_down_to_one(model_folder):
    config = load(stages.ROOT / "configs/distill/emoji.yaml", DistillConfig)
    assert config.stages == (GUIDANCE, 8, 4, 2, 1)
    assert isinstance(load_model(model_folder).config, RunConfig)
