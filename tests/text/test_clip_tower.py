"""CLIP's text towers: transformers' states from the same weights, Stable Diffusion's shapes, and bad inputs."""

import random
import string
import time

import open_clip
import pytest
import torch
from torch._subclasses import FakeTensorMode

from ldm.convert.names import text_names
from ldm.convert.parts import collect
from ldm.nets.clip import ClipEncoder, ClipSpec

EOT = 49407
TEXTS = ["", "a red apple", "Two  DOGS, naïve café!", "😀 שלום עולם", "far too long " * 40]
SMALL = {"width": 64, "layers": 3, "heads": 4}


def small(**options) -> ClipEncoder:
    return ClipEncoder(ClipSpec(**SMALL | {"trainable": True} | options))


def reference(activation: str):
    """A text model of transformers with random weights in the small shape."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act=activation,
        vocab_size=49408,
        eos_token_id=EOT,
        initializer_factor=3.0,  # far from the identity
    )
    model = CLIPTextModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def copied(theirs: torch.nn.Module, ours: ClipEncoder) -> None:
    """Copy by name; a tower may end before the last layer of theirs."""
    weights = {name.removeprefix("text_model."): tensor for name, tensor in theirs.state_dict().items()}
    names = {name: text_names(name) for name in ours.state_dict()}
    wanted = {piece for group in names.values() for piece in group}
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(collect({n: weights[n] for n in wanted}, names, shapes, "their tower"))


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize(
    ("model", "activation", "pad"), [("ViT-B-32-quickgelu", "quick_gelu", "eot"), ("ViT-B-32", "gelu", "zero")]
)
@torch.no_grad()
def test_states_are_those_of_transformers(model, activation, pad, layer, pooled):
    theirs = reference(activation)
    ours = small(model=model, pad=pad, layer=layer, pooled=pooled)
    copied(theirs, ours)
    ids, _ = ours.tokenize(TEXTS)
    out = theirs(input_ids=ids, output_hidden_states=True)
    final = theirs.get_submodule(
        "final_layer_norm" if hasattr(theirs, "final_layer_norm") else "text_model.final_layer_norm"
    )
    expected = out.last_hidden_state if layer == "last" else final(out.hidden_states[-2])
    cond = ours(TEXTS)
    assert (cond.tokens - expected).abs().max() < 1e-5
    assert cond.mask is None
    if pooled:
        assert (cond.pooled - out.pooler_output).abs().max() < 1e-5
    else:
        assert cond.pooled is None


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize("model", ["ViT-B-32-quickgelu", "ViT-B-32"])
@torch.no_grad()
def test_states_are_those_of_open_clip(model, layer, pooled):
    vision = open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    theirs = open_clip.CLIP(8, vision, open_clip.CLIPTextCfg(**SMALL), quick_gelu="quick" in model)
    ours = small(model=model, layer=layer, pooled=pooled)
    for parameter in (p for p in theirs.parameters() if p.ndim):  # far from the identity
        parameter.add_(0.3 * torch.randn_like(parameter) / max(1, parameter[:1].numel()) ** 0.5)
    ours.clip.load_state_dict({name: theirs.state_dict()[name] for name in ours.clip.state_dict()})
    ids, mask = ours.tokenize(TEXTS)
    found = theirs.forward_intermediates(text=ids, intermediates_only=True, normalize_intermediates=True)
    states = found["text_intermediates"]
    cond = ours.encode(ids, mask)
    scale = states[-1].abs().max()
    assert (cond.tokens - states[-1 if layer == "last" else -2]).abs().max() < 1e-6 * scale
    if pooled:
        assert (cond.pooled - states[-1][torch.arange(len(ids)), mask.sum(1) - 1]).abs().max() < 1e-6 * scale


@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_tensors_have_the_names_of_stored_models(layer):
    vision = open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    theirs = open_clip.CLIP(8, vision, open_clip.CLIPTextCfg(**SMALL)).state_dict()
    unused = ("visual.", "text_projection", "logit_scale", *(["transformer.resblocks.2."] if layer != "last" else []))
    wanted = {f"clip.{name}": tensor.shape for name, tensor in theirs.items() if not name.startswith(unused)}
    assert {name: tensor.shape for name, tensor in small(layer=layer).state_dict().items()} == wanted


def test_random_weights_are_as_large_as_open_clips():
    vision = open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    theirs = open_clip.CLIP(8, vision, open_clip.CLIPTextCfg(**SMALL)).state_dict()
    for name, tensor in small().clip.state_dict().items():
        if tensor.numel() > 1000:
            assert abs(tensor.std() / theirs[name].std() - 1) < 0.06, name
        elif not name.endswith(("c_fc.bias", "c_proj.bias")):  # their layers draw those
            assert torch.equal(tensor, theirs[name]), name


@torch.no_grad()
def test_the_activations_differ():
    weights = small(model="ViT-B-32").clip.state_dict()
    states = []
    for model in ("ViT-B-32", "ViT-B-32-quickgelu"):
        tower = small(model=model)
        tower.clip.load_state_dict(weights)
        states.append(tower(["a red apple"]).tokens)
    assert (states[0] - states[1]).abs().max() > 1e-4


@pytest.mark.parametrize("pad", ["zero", "eot"])
def test_ids_are_those_of_open_clip_up_to_the_padding(pad):
    ids, mask = small(pad=pad).tokenize(TEXTS)
    expected = open_clip.tokenize(TEXTS)
    assert torch.equal(ids[mask], expected[mask])
    assert (ids[~mask] == (EOT if pad == "eot" else 0)).all()
    assert (ids[torch.arange(len(TEXTS)), mask.sum(1) - 1] == EOT).all()
    assert mask.sum(1).tolist()[:2] == [2, 5] and mask[-1].all()


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (ClipSpec(model="ViT-L-14-quickgelu", pad="eot"), 123_060_480),
        (ClipSpec(model="ViT-H-14", layer="penultimate"), 340_387_840),
    ],
    ids=["stable diffusion 1", "stable diffusion 2"],
)
def test_stable_diffusion_has_its_number_of_parameters(spec, parameters):
    with FakeTensorMode():
        tower = ClipEncoder(spec)
    assert sum(p.numel() for p in tower.parameters()) == parameters


@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize("pooled", [False, True])
def test_training_reaches_every_weight(layer, pooled):
    tower = small(layer=layer, pooled=pooled, max_tokens=8)
    cond = tower(["a red apple"])
    (cond.tokens.square().sum() + (cond.pooled.square().sum() if pooled else 0)).backward()
    assert all(p.grad is not None for p in tower.parameters())


def test_a_frozen_tower_has_nothing_to_train():
    tower = small(trainable=False)
    assert not any(p.requires_grad for p in tower.parameters())
    assert not tower(["a red apple"]).tokens.requires_grad


def test_masked_padding_is_reported():
    cond = small(attend="words")(["a red apple", ""])
    assert cond.mask.sum(1).tolist() == [5, 2]


def test_later_words_do_not_change_earlier_states():
    tower = small()
    short, long = tower(["a red"]).tokens, tower(["a red apple"]).tokens
    assert torch.allclose(short[:, :3], long[:, :3], atol=1e-6)
    assert (short[:, 3] - long[:, 3]).abs().max() > 1e-2


def test_length_is_fixed_and_every_text_has_states():
    tower = small(max_tokens=16)
    tokens = tower(TEXTS).tokens
    assert tokens.shape == (len(TEXTS), 16, tower.width) and tokens.isfinite().all()
    assert tower([]).tokens.shape == (0, 16, tower.width)


@pytest.mark.parametrize(
    ("caption", "cut"),
    [("", ""), ("a b c", ""), ("a b c d E", "d E"), ("a  Kaleidoscopical thing", "Kaleidoscopical thing")],
)
def test_cut_words_are_named(caption, cut):
    assert small(max_tokens=5).cut(caption) == cut


WORDS = " ".join(f"word{i}" for i in range(10_000))
ONE_WORD = "".join(random.Random(0).choices(string.ascii_lowercase, k=60_000))


@pytest.mark.parametrize("prompt", [WORDS, ONE_WORD], ids=["words", "one word"])
def test_a_long_prompt_is_cut_and_fast(prompt):
    tower = small()
    start = time.process_time()
    _, mask = tower.tokenize([prompt])
    cut = tower.cut(prompt)
    assert time.process_time() - start < 10  # under 1 s; one word read whole would take over 20
    assert mask.all() and prompt.endswith(cut) and cut


def test_a_long_word_is_read_as_far_as_it_matters():
    word = "".join(chr(97 + i * i % 26) for i in range(3_000))
    assert torch.equal(small(max_tokens=16).tokenize([word])[0], open_clip.tokenize([word], context_length=16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B-33"}, "open_clip has no 'ViT-B-33'"),
        ({"model": "roberta-ViT-B-32"}, "no plain CLIP text tower"),
        ({"model": "coca_ViT-B-32"}, "no plain CLIP text tower"),
        ({"model": "ViT-B-16-SigLIP"}, "no plain CLIP text tower"),
        ({"pretrained": "nothing"}, "no tag of ViT-B-32; known: openai"),
        ({"pretrained": "openai", "width": 64}, "has its own width"),
        ({"pretrained": "openai", "max_tokens": 24}, "pretrained weights need 77"),
        ({"width": 64, "heads": 5}, "5 does not divide width 64"),
        ({"width": 0}, "width: 0; at least 1"),
        ({"max_tokens": 2}, "max_tokens: 2; at least 3"),
        ({"layers": 1, "layer": "penultimate"}, "needs at least 2 layers"),
    ],
)
def test_impossible_towers_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        ClipEncoder(ClipSpec(**options))
    assert "\n" not in str(error.value)


def test_a_tag_of_the_other_activation_is_refused_and_the_right_model_named():
    for model, tag in [("ViT-L-14", "openai"), ("ViT-H-14", "dfn5b")]:
        with pytest.raises(ValueError, match=f"use '{model}-quickgelu'"):
            ClipEncoder(ClipSpec(model=model, pretrained=tag))
        assert f"{model}-quickgelu" in open_clip.list_models()


def test_a_failed_download_is_one_line(monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("Failed to download weights\nmuch more")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(ValueError, match="text.pretrained: the weights 'openai' of ViT-B-32-quickgelu") as error:
        ClipEncoder(ClipSpec(model="ViT-B-32-quickgelu", pretrained="openai"))
    assert "\n" not in str(error.value) and "Failed to download" in str(error.value)


def test_downloaded_weights_lose_their_picture_tower(monkeypatch):
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    vision = open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    text = open_clip.CLIPTextCfg(**config["text_cfg"])
    whole = open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=True)
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: whole)
    tower = ClipEncoder(ClipSpec(model="ViT-B-32-quickgelu", pretrained="openai"))
    assert not any("visual" in name for name in tower.state_dict())
    assert tower(["a red apple"]).tokens.shape == (1, 77, 512)
