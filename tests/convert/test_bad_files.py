"""Files that cannot be used: one line that says what is wrong, and no code of a file is ever run."""

import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
import small
import torch
from safetensors.torch import load_file, save_file

from ldm.convert.compvis import AVERAGED, UNET, write_compvis
from ldm.convert.diffusers import WEIGHTS, write_diffusers
from ldm.convert.opening import read_parts
from ldm.core.bundle import BundleError

SOME = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    write_compvis(small.made("1", torch.float16), path)
    return path


@pytest.fixture
def weights(file) -> dict[str, torch.Tensor]:
    return load_file(file)


def refusal(path: Path, **options) -> str:
    with pytest.raises(BundleError) as caught:
        read_parts(path, **options)
    text = str(caught.value)
    assert str(path) in text or str(path.parent) in text
    assert "\n" not in text and len(text) < 700
    return text


def saved(tensors, path: Path, **metadata: str) -> Path:
    save_file(tensors, path, metadata=metadata or None)
    return path


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "model.pt"])
@pytest.mark.parametrize("allow_pickle", [False, True])
@pytest.mark.parametrize("how", ["torch", "torch-legacy", "pickle", "pickle-4"])
def test_a_payload_never_runs(tmp_path, name, allow_pickle, how, recwarn):
    path, sprung = tmp_path / name, tmp_path / "sprung"
    content = {"state_dict": {"x": torch.zeros(2)}, "extra": Trap(sprung)}
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(content["extra"], protocol=4 if how == "pickle-4" else 2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    text = refusal(path, allow_pickle=allow_pickle)
    assert not sprung.exists()
    if name == "model.safetensors":
        assert "a pickled checkpoint under the name of a safetensors file" in text
    elif not allow_pickle:
        assert "--allow-pickle" in text
    else:
        assert "another protocol" in text if how == "pickle-4" else "asks for" in text
        assert "nothing in it was run" in text
    assert not recwarn.list  # a line of torch's own would stand before the one line
    assert "weights_only" not in text  # torch advises to load the file without protection


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_is_read_with_the_flag(tmp_path, file, weights, wrapped):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": weights, "global_step": 7} if wrapped else weights, path)
    assert "--allow-pickle" in refusal(path)
    assert small.same(read_parts(path, allow_pickle=True), read_parts(file))


@pytest.mark.parametrize("held", [3, None, [1], {"state_dict": 3}, {"state_dict": None}, {"state_dict": ["x"]}])
def test_a_checkpoint_of_something_else_is_one_line(tmp_path, held):
    torch.save(held, tmp_path / "model.ckpt")
    assert "without tensors by name" in refusal(tmp_path / "model.ckpt", allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (f"{UNET}input_blocks.0.0.weight", (0, 4, 3, 3), "its U-Net is missing or not that of"),
        (f"{UNET}input_blocks.0.0.weight", (16, 4, 3, 3), "tensors of these shapes make no U-Net"),
        ("first_stage_model.encoder.conv_in.weight", (0, 3, 3, 3), "its autoencoder is missing or not that of"),
        ("first_stage_model.encoder.conv_in.weight", (), "its autoencoder is missing or not that of"),
    ],
)
def test_shapes_that_no_network_has_are_one_line(tmp_path, weights, name, shape, words):
    assert words in refusal(saved({**weights, name: torch.zeros(shape)}, tmp_path / "x.safetensors"))


@pytest.mark.parametrize("number", ["99999", "1000000000000"])
def test_a_stray_number_is_no_number_of_layers(tmp_path, weights, number):
    """It would be a tower of as many, and hours."""
    stray = f"cond_stage_model.transformer.text_model.encoder.layers.{number}.x"
    assert stray in refusal(saved({**weights, stray: torch.zeros(1)}, tmp_path / "x.safetensors"))


def test_what_trainers_leave_in_a_checkpoint_is_passed_over(tmp_path, file, weights):
    from pytorch_lightning.callbacks import ModelCheckpoint

    path = tmp_path / "model.ckpt"
    best = torch.tensor(0.1).numpy()[()]
    torch.save({"state_dict": weights, "callbacks": {ModelCheckpoint: {"best": best}}}, path)
    assert small.same(read_parts(path, allow_pickle=True), read_parts(file))


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_truncated_at_a_hundred_lengths(tmp_path, kind):
    whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    tensors = {f"{UNET}input_blocks.0.0.weight": torch.randn(32, 4, 3, 3), "first_stage_model.x": torch.randn(9)}
    torch.save({"state_dict": tensors}, whole) if kind == "ckpt" else save_file(tensors, whole)
    content = whole.read_bytes()
    for length in [0, 1, 8, 9, len(content) - 1, *random.Random(0).sample(range(len(content)), 100)]:
        cut.write_bytes(content[:length])
        text = refusal(cut, allow_pickle=True)
        assert any(word in text for word in ("empty", "truncated", "damaged")), (length, text)


def test_missing_tensors_are_listed_with_what_is_near(tmp_path, weights):
    weights[SOME.replace("to_q", "to_qq")] = weights.pop(SOME)
    text = refusal(saved(weights, tmp_path / "x.safetensors"))
    assert f"1 tensor is missing: {SOME} (near: {SOME.replace('to_q', 'to_qq')})" in text
    assert "1 tensor is unknown" in text


def test_any_one_tensor_that_is_missing_is_named(tmp_path, weights):
    for number, name in enumerate(random.Random(1).sample(sorted(weights), 12)):
        if name.endswith("position_ids"):
            continue
        rest = {other: tensor for other, tensor in weights.items() if other != name}
        assert name in refusal(saved(rest, tmp_path / f"{number}.safetensors"))


def test_an_unknown_tensor_inside_a_network_is_named(tmp_path, weights):
    weights[f"{UNET}input_blocks.1.0.in_layers.9.weight"] = torch.zeros(1)
    assert "input_blocks.1.0.in_layers.9.weight (near: " in refusal(saved(weights, tmp_path / "x.safetensors"))


def test_a_tensor_outside_of_the_networks_is_told_and_passed_over(tmp_path, file, weights, caplog):
    weights["embedding_manager.string"] = torch.zeros(1)
    assert small.same(read_parts(saved(weights, tmp_path / "x.safetensors")), read_parts(file))
    assert "not read: embedding_manager.string" in caplog.text


def test_wrong_shapes_and_kinds(tmp_path, weights):
    changed = {**weights, SOME: torch.zeros(32, 33)}
    assert f"{SOME} is (32, 33), but (32, 32) is needed" in refusal(saved(changed, tmp_path / "x.safetensors"))
    changed = {**weights, SOME: torch.zeros(32, 32, dtype=torch.int8)}
    assert "torch.int8" in refusal(saved(changed, tmp_path / "y.safetensors"))


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("conditioner.embedders.1.model.ln_final.weight", (8,), "Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x.weight", (8,), "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.proj.weight", (8,), "Flux"),
        ("lora_unet_down_blocks_0.lora_up.weight", (8,), "LoRA"),
        ("control_model.zero_convs.0.0.weight", (8,), "ControlNet"),
        (f"{UNET}label_emb.0.0.weight", (8,), "upscaler"),
        (f"{UNET}input_blocks.0.0.weight", (8, 5, 3, 3), "depth-to-image with 5 channels"),
        ("down_blocks.0.resnets.0.conv1.weight", (8,), "one network of a diffusers folder"),
        ("encoder.down.0.block.0.conv1.weight", (8,), "an autoencoder alone"),
        ("bert.weight", (8,), "no model known here"),
    ],
)
def test_other_files_are_told_by_what_they_look_like(tmp_path, name, shape, words):
    text = refusal(saved({name: torch.zeros(shape)}, tmp_path / "x.safetensors"))
    assert words in text and "Stable Diffusion 1.x and 2.x" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"), (b"GGUF0000", "GGUF"), (b"hi", "")],
)
def test_files_that_are_no_weights(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert words in refusal(path)


def test_another_noise_schedule_is_refused(tmp_path, weights):
    weights["alphas_cumprod"] = torch.linspace(1, 0.5, 1000)
    assert "noise schedule" in refusal(saved(weights, tmp_path / "x.safetensors"))


def test_what_generation_two_predicts_is_asked_for(tmp_path):
    path = tmp_path / "model.safetensors"
    write_compvis(small.made("2-v", torch.float16), path)
    assert read_parts(path).config.prediction.kind == "v"  # our own file says it
    bare = saved(load_file(path), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="--prediction: .*bare.safetensors is of Stable Diffusion 2"):
        read_parts(bare)
    for kind, size in (("eps", 512), ("v", 768)):
        config = read_parts(bare, prediction=kind).config
        assert (config.prediction.kind, config.sample.size) == (kind, size)


def test_another_prediction_than_the_usual_is_stated(tmp_path, weights, caplog):
    bare = saved(weights, tmp_path / "bare.safetensors")
    assert read_parts(bare).config.prediction.kind == "eps" and not caplog.text
    assert read_parts(bare, prediction="v").config.prediction.kind == "v"
    assert "read as predicting v, as asked" in caplog.text


def test_the_average_is_read_where_there_is_one(tmp_path, weights, caplog):
    average = {
        AVERAGED + n.removeprefix("model.").replace(".", ""): t * 2 for n, t in weights.items() if n.startswith(UNET)
    }
    counters = {f"{AVERAGED}decay": torch.tensor(0.9), f"{AVERAGED}num_updates": torch.tensor(3)}
    path = saved(weights | average | counters, tmp_path / "x.safetensors")
    own = read_parts(path, variant="non_ema")
    assert not caplog.text
    read = read_parts(path)
    assert "the average is read" in caplog.text
    assert all(torch.equal(read.net[n], 2 * t) for n, t in own.net.items())
    assert small.same(read, read_parts(path, variant="ema"))
    del average[next(iter(average))]
    assert "is missing: model_ema." in refusal(saved(weights | average, tmp_path / "y.safetensors"))
    with pytest.raises(ValueError, match="holds no averaged weights"):
        read_parts(saved(weights, tmp_path / "z.safetensors"), variant="ema")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("diffusers") / "model"
    write_diffusers(small.made("1", torch.float16), path)
    return path


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("model_index.json", "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusionXLPipeline"),
        ("unet/config.json", '"addition_embed_type": null', '"addition_embed_type": "text_time"', "text_time"),
        ("unet/config.json", '"DownBlock2D"', '"StrangeBlock2D"', "StrangeBlock2D"),
        ("vae/config.json", "{", "[", "not valid JSON"),
        ("text_encoder/config.json", "quick_gelu", "tanh", "hidden_act is 'tanh'"),
        ("scheduler/scheduler_config.json", "scaled_linear", "squaredcos_cap_v2", "squaredcos_cap_v2"),
    ],
)
def test_folders_of_other_models(folder, tmp_path, file, old, new, words):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / file).write_text((copy / file).read_text().replace(old, new))
    with pytest.raises(BundleError, match=words):
        read_parts(copy)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("unet", "sample_size", [64, 32]),
        ("unet", "sample_size", "abc"),
        ("unet", "sample_size", -1),
        ("unet", "block_out_channels", []),
        ("unet", "in_channels", None),
        ("unet", "attention_head_dim", 0),
        ("unet", "norm_num_groups", 0),
        ("unet", "layers_per_block", 10**9),
        ("unet", "cross_attention_dim", "x"),
        ("vae", "layers_per_block", [2, "y"]),
        ("text_encoder", "num_hidden_layers", 10**9),
        ("text_encoder", "hidden_size", True),
        ("vae", "scaling_factor", None),
        ("vae", "scaling_factor", 0),
        ("vae", "scaling_factor", "x"),
        ("text_encoder", "num_attention_heads", 0),
        ("scheduler", "prediction_type", []),
        ("scheduler", "prediction_type", "zzz"),
        ("tokenizer/special_tokens_map.json", None, b"[]"),
        ("tokenizer/special_tokens_map.json", None, b""),
    ],
)
def test_values_of_another_kind(folder, tmp_path, file, key, value):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / file
    if key is None:
        path.write_bytes(value)
    else:
        path /= "scheduler_config.json" if file == "scheduler" else "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert str(path) in refusal(copy)


def test_a_square_may_be_given_by_both_sides(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "unet/config.json").read_text())
    side = config["sample_size"]
    (copy / "unet/config.json").write_text(json.dumps(config | {"sample_size": [side, side]}))
    assert read_parts(copy).config.sample.size == read_parts(folder).config.sample.size


@pytest.mark.parametrize("file", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_missing_files_of_a_folder(folder, tmp_path, file):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / file).unlink()
    assert Path(file).parent.name in refusal(copy)


def test_variants_of_a_folder(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    plain = read_parts(copy)
    for part, stem in WEIGHTS.items():
        (copy / part / f"{stem}.safetensors").rename(copy / part / f"{stem}.fp16.safetensors")
    assert small.same(read_parts(copy), plain) and small.same(read_parts(copy, variant="fp16"), plain)
    with pytest.raises(ValueError, match="--variant: 'bf16' is not in .*; there is fp16"):
        read_parts(copy, variant="bf16")
    tensors = load_file(copy / "text_encoder" / "model.fp16.safetensors")
    (copy / "text_encoder" / "model.fp16.safetensors").unlink()
    torch.save(tensors, copy / "text_encoder" / "pytorch_model.bin")
    assert "--allow-pickle" in refusal(copy)
    assert small.same(read_parts(copy, allow_pickle=True), plain)


def test_older_names_of_the_autoencoders_attention(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in load_file(path).items():
        for new, old in older.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[name] = tensor
    save_file(renamed, path)
    assert small.same(read_parts(copy), read_parts(folder))


def test_text_names_without_their_middle_part(tmp_path, file, weights):
    short = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in weights.items()}
    assert short.keys() != weights.keys()
    assert small.same(read_parts(saved(short, tmp_path / "x.safetensors")), read_parts(file))
