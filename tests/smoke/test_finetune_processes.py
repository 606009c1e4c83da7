"""Fine-tuning on two processes: the steps of one, and one line for what they cannot share."""

from dataclasses import replace
from pathlib import Path

import pytest
import stages
import torch
from safetensors.torch import load_file
from test_processes import checkpoint, run_two, start_two
from test_sharded import parts_of

from autoencoder.build import load_autoencoder
from ldm.core.config_io import load
from ldm.core.rng import NoiseStream, fold
from ldm.model_folder import AUTOENCODER, load_model
from ldm.training.finetune import FinetuneConfig
from ldm.training.finetune_fit import finetune
from ldm.training.module import LatentDiffusion

pytestmark = pytest.mark.slow
# AdamW makes a step of the whole rate of a gradient that is nothing but rounding: the rate is low
QUICK = ("optim.steps=3", "optim.warmup=0", "optim.lr=1e-5", "validate_every=2", "data.batch=4", "precision=32-true")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Everywhere: with more, sums are rounded otherwise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(out, *changes) -> list[str]:
    return [*QUICK, f"data.cache={out.parent}/cache", 'prompts=["a red circle"]', *changes]


def options(method, shapes, model, out, *changes) -> list[str]:
    fixed = ["--model", model, "--data", shapes / "train", "--method", method, "--out", out, "--token", "scribble"]
    return [*map(str, fixed), *stages._set(settings(out, *changes))]


def assert_same_steps(ours, theirs, bound=1e-6) -> None:
    for name, difference in differences(ours, theirs).items():
        assert difference <= bound, name


def differences(ours, theirs) -> dict[str, float]:
    """Of the weights and of both moments after training, relative to their size."""
    found, expected = parts_of(checkpoint(ours)), parts_of(checkpoint(theirs))
    assert all(vector.norm() > 0 for vector in expected.values())
    return {name: float((found[name] - vector).norm() / vector.norm()) for name, vector in expected.items()}


@pytest.fixture
def in_halves(monkeypatch):
    """This process reads the rows of each of two at a time: all at once are rounded otherwise, by up to 2e-6."""
    whole = LatentDiffusion.loss

    def loss(self, batch, noise, *, dropped):
        if not self.training:
            return whole(self, batch, noise, dropped=dropped)
        key, kept = fold(self.model.config.seed, "train", self.global_step), self.kept
        self.kept = None if kept is None else replace(kept, rows=kept.rows // 2)
        rows = [{name: tensor[rank::2] for name, tensor in batch.items()} for rank in range(2)]
        halves = [whole(self, rows[r], NoiseStream.of_batch(key, r, 2), dropped=dropped) for r in range(2)]
        self.kept = kept
        return tuple(torch.cat(parts) for parts in zip(*halves, strict=True))

    monkeypatch.setattr(LatentDiffusion, "loss", loss)


def here(method, shapes, model, out, *changes) -> None:
    """Fine-tune in this process."""
    given = {"model": str(model), "data.train": f"{shapes}/train", "token": "scribble"}
    recipe = stages.ROOT / "configs/finetune" / f"{method}.yaml"
    finetune(load(recipe, FinetuneConfig, settings(out, *changes), given), out)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lora", ("prior={pictures: 4, steps: 1, share: 0.5}",)),
        ("full", ()),
        ("textual-inversion", ("data.drop_caption=0.6",)),  # there are steps in which a process never reads the word
    ],
)
def test_two_processes_take_the_steps_of_one(method, changes, shapes, model_folder, tmp_path, in_halves):
    one, two = tmp_path / "one", tmp_path / "two"
    run_two("finetune", *options(method, shapes, model_folder, two, *changes))
    here(method, shapes, model_folder, one, *changes)
    assert_same_steps(two, one)
    names = [sorted(path.name for path in out.iterdir()) for out in (one, two)]
    assert names[0] == names[1] and "samples.png" in names[0]
    if method == "textual-inversion":
        ours, theirs = (load_file(out / "word.safetensors")["scribble"] for out in (two, one))
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_of_two_processes_the_first_writes_the_model_of_a_new_decoder(shapes, model_folder, tmp_path):
    def arguments(out: Path) -> list[str]:
        changes = ["optim.steps=2", "optim.warmup=0", "data.crop=16", "data.whole=0", "data.batch=4", "loss.lpips=0"]
        fixed = ["--model", model_folder, "--data", shapes / "train", "--stage", "autoencoder", "--out", out]
        return [*map(str, fixed), *stages._set([*changes, "precision=32-true"])]

    one, two = tmp_path / "one", tmp_path / "two"
    printed = [stages.finish(process).splitlines()[-1:] for process in start_two("finetune", *arguments(two))]
    assert sorted(printed) == [[], [f"{two}/model"]]
    stages.finish(stages.start("finetune", *arguments(one)))
    ours, theirs = (load_autoencoder(out / "model" / AUTOENCODER)[0].state_dict() for out in (two, one))
    assert all(torch.allclose(ours[name], weight, atol=1e-6) for name, weight in theirs.items())
    names = [sorted(str(path.relative_to(out)) for path in out.rglob("*.safetensors")) for out in (one, two)]
    assert names[0] == names[1] and load_model(two / "model").sha256 == load_model(model_folder).sha256


def test_shared_out_they_take_the_steps_of_one_as_far_as_this_machine_rounds_alike(
    shapes, model_folder, tmp_path, monkeypatch
):
    """What counts as alike is measured: the same training in one process with its weights laid out in another way."""
    two, last, first = tmp_path / "two", tmp_path / "channels-last", tmp_path / "channels-first"
    shared = ("trainer.strategy=fsdp", "data.encode=along")
    run_two("finetune", *options("full", shapes, model_folder, two, *shared))
    here("full", shapes, model_folder, last, "data.encode=along")

    def lay_out(module):
        module.denoise.net.to(memory_format=torch.contiguous_format)

    monkeypatch.setattr(LatentDiffusion, "configure_model", lay_out)
    here("full", shapes, model_folder, first, "data.encode=along")
    rounding = max(differences(last, first).values())
    assert 0 < rounding < 1e-5  # another order of the pictures makes a difference of 1e-2
    assert_same_steps(two, first, bound=2 * rounding)


def test_what_processes_cannot_share_is_refused(shapes, model_folder, tmp_path):
    cases = [
        ("lora", ("data.batch=5",), "data.batch: 5 cannot be shared evenly by 2 processes"),
        ("lora", ("trainer.strategy=fsdp",), "trainer.strategy: 'fsdp' is for --method full"),
    ]
    for method, changes, message in cases:
        for process in start_two("finetune", *options(method, shapes, model_folder, tmp_path / "out", *changes)):
            _, err = process.communicate(timeout=170)
            assert process.returncode == 2 and message in err.splitlines()[-1], err
