"""The pieces of fine-tuning: adapters are what their file says, what is kept is kept, words and orders are exact."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.build import Model
from ldm.core.distributed import World
from ldm.core.rng import NoiseStream
from ldm.data.position import Shared
from ldm.evaluation.gallery import Labelled
from ldm.evaluation.style import balanced, real_rate, style_of
from ldm.model_folder import load_model
from ldm.nets.clip import ClipEncoder, ClipSpec
from ldm.nets.lora import Lora, merged
from ldm.training import finetune_fit
from ldm.training.datamodule import cacheable
from ldm.training.finetune import FinetuneConfig
from ldm.training.lora import LoraSpec, inject, trained, without_adapters
from ldm.training.module import Kept, LatentDiffusion
from ldm.training.prior import PriorSpec, TwoSets, draw_prior, prompts
from ldm.training.textual_inversion import WordSpec, add_word
from ldm.training.wording import Wording

B = 4
PROMPTS = ["a red circle", "a blue square", "a green circle", "a black square"]


@pytest.fixture
def model(model_folder):
    return load_model(model_folder)


def batch(model):
    cond = model.condition(PROMPTS)
    return {"mean": torch.randn(B, 4, 4, 4), "var": torch.full((B, 4, 4, 4), 0.1), **cond.present()}


def shaken(module):
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1)


@pytest.mark.parametrize("targets", ["attention", "transformer", "all"])
def test_the_file_of_adapters_is_what_they_compute(targets, model, model_folder):
    plain = load_model(model_folder)
    spec = LoraSpec(rank=3, alpha=5.0, targets=targets)
    inject(model, spec)
    shaken(model.denoise)
    lora = Lora(trained(model.learned().state_dict(), spec.scaled_by))
    x, logsnr, cond = torch.randn(B, 4, 4, 4), torch.zeros(B), plain.condition(PROMPTS)
    before = plain.denoise(x, logsnr, cond).x0
    with torch.no_grad():
        adapted = model.denoise(x, logsnr, cond).x0
        assert not torch.allclose(adapted, before, atol=1e-3)
        with merged(plain.learned(), lora, 1.0, "a"):
            torch.testing.assert_close(plain.denoise(x, logsnr, cond).x0, adapted, rtol=1e-4, atol=1e-4)
        with without_adapters(model.denoise):
            assert torch.equal(model.denoise(x, logsnr, cond).x0, before)
        assert torch.equal(model.denoise(x, logsnr, cond).x0, adapted)


def test_adapters_of_a_clip_tower_are_what_their_file_says(model_folder):
    torch.manual_seed(0)
    text = ClipEncoder(ClipSpec(width=32, layers=2, heads=2, max_tokens=16))
    parts = torch.nn.ModuleDict({"text": text})
    before = text(PROMPTS).tokens
    model = replace(load_model(model_folder), text=text)
    inject(model, LoraSpec(rank=2, alpha=3.0, text=True))
    shaken(text)
    adapted = text(PROMPTS).tokens
    lora = Lora(trained(parts.state_dict(), 3.0))
    torch.manual_seed(0)
    again = ClipEncoder(ClipSpec(width=32, layers=2, heads=2, max_tokens=16))
    assert torch.equal(again(PROMPTS).tokens, before)
    with merged(torch.nn.ModuleDict({"text": again}), lora, 1.0, "a"):
        torch.testing.assert_close(again(PROMPTS).tokens, adapted, rtol=1e-4, atol=1e-4)
    assert len(lora.changes) == 6 and text.trainable


def test_new_adapters_change_nothing_and_what_is_kept_costs_nothing(model):
    inject(model, LoraSpec(rank=2))

    def before(x_t, logsnr, cond):
        with without_adapters(model.denoise):
            return model.denoise(x_t, logsnr, cond)

    module = LatentDiffusion(model, kept=Kept(B - 1, before)).train()
    loss, _ = module.loss(batch(model), NoiseStream([0]), dropped=0.5)
    assert loss[0] > 0 and loss[1:].max() < 1e-10  # rounding apart
    shaken(model.denoise)
    loss, _ = module.loss(batch(model), NoiseStream([0]), dropped=0.5)
    loss[1:].sum().backward()
    assert (loss[1:] > 0).all()
    learned = [name for name, p in model.denoise.named_parameters() if p.grad is not None]
    assert learned and all("lora_" in name for name in learned)


def test_a_divergence_is_named_by_its_level(model):
    module = LatentDiffusion(model)
    assert module.worst_level() == "unknown"
    module._seen = torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([0.1, 0.5, 0.9])
    assert module.worst_level() == f"{model.schedule(torch.tensor([0.5])).item():.2f} nats of log-SNR (t = 0.500)"
    module._seen = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.5, 0.9])
    assert module.worst_level().endswith("(t = 0.900)")


@given(done=st.integers(0, 50), kept=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_batch_has_its_share_of_both_sets_wherever_a_run_goes_on(done, kept, seed):
    order = TwoSets((7, 5), 4, kept, seed)
    whole = [order.indices(step) for step in range(done + 3)]
    assert whole[done:] == list(islice(Shared(TwoSets((7, 5), 4, kept, seed), done, World()), 3))
    for rows in whole:
        assert all(row < 7 for row in rows[: 4 - kept]) and all(7 <= row < 12 for row in rows[4 - kept :])


def test_captions_in_the_words_of_a_run():
    word = Wording(template="{caption}, {token}", token="ink")
    assert word("a cat, on blue") == "a cat, on blue, ink"
    assert Wording(template="{caption}, {token}")("a cat") == "a cat"
    assert Wording(template="a {token} {subject}", token="sks", subject="dog")("ignored") == "a sks dog"
    spec = PriorSpec(captions=("{caption}, flat", "a {subject}"), pictures=5)
    assert prompts(spec, ["cat", "dog"], "pet") == ["cat, flat", "a pet", "dog, flat", "a pet", "cat, flat"]
    with pytest.raises(ValueError, match="no template"):
        Wording(template="{caption")
    with pytest.raises(ValueError, match="prior.share"):
        PriorSpec(share=1.0)


def test_a_prior_shows_what_the_model_knows():
    known = [f"thing {i}, flat" for i in range(9)]
    spec = PriorSpec(pictures=12)
    wanted = prompts(spec, ["cat"], "pet", known, seed=1)
    assert wanted == prompts(spec, ["dog"], "pet", known, seed=1) and wanted[:3] == wanted[9:]
    assert set(wanted) == set(known) and wanted != prompts(spec, ["cat"], "pet", known, seed=2)
    assert prompts(spec, ["cat"], "pet") == ["cat"] * 12


def test_pictures_of_a_prior_are_those_of_its_prompts(model, tmp_path):
    spec = PriorSpec(pictures=2, steps=1)
    folder = draw_prior(model, spec, ["a", "b"], 0, tmp_path)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.png")}
    draw_prior(model, spec, ["a", "c"], 0, tmp_path)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.png")}
    assert after["00000.png"] == before["00000.png"] and after["00001.png"][1] != before["00001.png"][1]


def test_a_prior_is_drawn_on_the_device_of_training(model, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(finetune_fit, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(Model, "to", lambda self, device: done.append(str(device)) or self)
    monkeypatch.setattr(finetune_fit, "draw_prior", lambda *arguments: done.append("drawn"))
    config = FinetuneConfig(token="<new>", prior=PriorSpec(pictures=2))
    finetune_fit._prior(config, model, ["a red circle"], tmp_path)
    assert done == ["cuda", "drawn", "cpu"]


def test_the_style_of_a_picture_is_that_of_most_of_its_neighbours():
    angle = torch.tensor([0.0, 0.1, 0.2, 1.4, 1.5, 1.6])
    features = torch.stack([angle.cos(), angle.sin()], 1)
    gallery = Labelled(features, ["c"] * 6, ["a", "b", "c"] * 2, ["ink"] * 3 + ["oil"] * 3)
    assert style_of(features[[0, 5]] * 3, gallery, k=3) == ["ink", "oil"]
    styles = balanced([gallery], without=["c"])
    assert styles.concepts == ("a", "b") and Counter(styles.gallery.styles) == {"ink": 2, "oil": 2}
    more = Labelled(features.repeat(2, 1), ["c"] * 12, [*"abcabcdefdef"], gallery.styles * 2)
    assert real_rate(balanced([more], ()), "ink") == 1.0
    with pytest.raises(ValueError, match="no concept"):
        balanced([gallery], without=["a", "b", "c"])


def test_a_guess_passes_over_the_words_of_a_fine_tuning():
    from ldm.nets.guess import subject_and_manner

    captions = ["a rocket, ink", "a rocket, ink, on blue", "ink cat", "a dog"]
    assert subject_and_manner(captions, ["ink"]) == (["rocket", "rocket", "cat", "dog"], ["", "on blue", "", ""])
    assert subject_and_manner(captions) == (["rocket", "rocket", "ink cat", "dog"], ["ink", "ink, on blue", "", ""])


def test_the_gradient_of_a_word_is_the_mean_of_those_of_the_processes(model):
    add_word(model, WordSpec(vectors=2), "scribble", seed=0)
    module = LatentDiffusion(model).double().train()
    vectors = model.text.words.vectors
    captions = ["a red circle, scribble", "a square", "scribble", "a blue square"]  # the second process never reads it
    moments = {"mean": torch.randn(B, 4, 4, 4).double(), "var": torch.full((B, 4, 4, 4), 0.1).double()}
    rows = moments | cacheable(model, captions).present()

    def gradient(rank, size):
        own = {name: tensor[rank::size] for name, tensor in rows.items()}
        loss, _ = module.loss(own, NoiseStream.of_batch(7, rank, size), dropped=0.0)
        return torch.autograd.grad(loss.mean(), vectors)[0]

    whole, halves = gradient(0, 1), [gradient(rank, 2) for rank in range(2)]
    assert whole.norm() > 0 and halves[1].count_nonzero() == 0  # zeros, not nothing: all processes have it to share
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-9, atol=1e-12 * whole.norm().item())
