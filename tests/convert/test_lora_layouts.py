"""LoRA files of diffusers, peft and kohya: names, scales and stacked projections."""

from collections import OrderedDict

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from small import made
from torch import nn

from ldm.convert.lora import read_lora, their_names, write_lora
from ldm.convert.opening import assembled
from ldm.core.bundle import BundleError
from ldm.inference.adapters import adaptable, read
from ldm.nets.lora import Lora, LowRank, merged, save_lora

TO_Q = "net.down.0.layers.0.attention.layers.0.self_attention.to_q.weight"
CONV = "net.down.0.layers.0.res.conv1.weight"
STACKED = "text.clip.transformer.resblocks.0.attn.in_proj_weight"
THEIRS = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def model():
    return assembled(made("1"), "ab", None)


@pytest.fixture(scope="module")
def weights(model):
    return {name: p for name, p in adaptable(model).named_parameters() if p.ndim >= 2}


def random_lora(weights, names, rank=3, alpha=5.0):
    torch.manual_seed(0)
    changes = {}
    for name in names:
        out, *inputs = weights[name].shape
        up = (out, rank, 1, 1) if len(inputs) == 3 else (out, rank)
        changes[name] = LowRank(torch.randn(rank, *inputs), torch.randn(up), alpha)
    return Lora(changes)


@pytest.mark.parametrize("layout", ["ldm", "diffusers", "kohya"])
def test_every_weight_comes_back_as_it_was_written(layout, weights, tmp_path):
    lora = random_lora(weights, weights)
    write_lora(tmp_path / "a.safetensors", lora, layout)
    found = read_lora(tmp_path / "a.safetensors", weights)
    assert found.changes.keys() == lora.changes.keys()
    for name, change in lora.changes.items():
        torch.testing.assert_close(found.changes[name].delta(), change.delta(), rtol=1e-4, atol=1e-4)


def test_the_names_are_those_of_published_files():
    assert their_names(TO_Q, "diffusers") == (f"unet.{THEIRS}",)
    assert their_names(TO_Q, "kohya") == ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",)
    out = TO_Q.replace("to_q", "to_out")
    assert their_names(out, "kohya")[0].endswith("_attn1_to_out_0")
    assert their_names(STACKED, "kohya")[1] == "lora_te_text_model_encoder_layers_0_self_attn_k_proj"
    assert their_names(STACKED, "diffusers")[2] == "text_encoder.text_model.encoder.layers.0.self_attn.v_proj"


def test_a_file_that_peft_writes_draws_what_peft_computes(model, weights, tmp_path):
    part = nn.Module()
    inner = part
    for name in THEIRS.split(".")[:-1]:
        setattr(inner, name, nn.Module())
        inner = getattr(inner, name)
    inner.to_q = nn.Linear(*weights[TO_Q].shape[::-1], bias=False)
    with torch.no_grad():
        inner.to_q.weight.copy_(weights[TO_Q])
    adapted = get_peft_model(part, LoraConfig(r=4, lora_alpha=4, target_modules=["to_q"], init_lora_weights=False))
    save_file(get_peft_model_state_dict(adapted), tmp_path / "peft.safetensors")
    lora = read_lora(tmp_path / "peft.safetensors", weights)
    x = torch.randn(5, weights[TO_Q].shape[1])
    with merged(adaptable(model), lora, 1.0, "peft"):
        torch.testing.assert_close(nn.functional.linear(x, weights[TO_Q]), inner.to_q(x))


def test_some_of_three_stacked_projections_change_their_rows_only(weights, tmp_path):
    d = weights[STACKED].shape[1]
    name = "lora_te_text_model_encoder_layers_0_self_attn_v_proj"
    torch.manual_seed(0)
    a, b = torch.randn(2, d), torch.randn(d, 2)
    tensors = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "v.safetensors")
    delta = read_lora(tmp_path / "v.safetensors", weights).changes[STACKED].delta()
    torch.testing.assert_close(delta, torch.cat([torch.zeros(2 * d, d), b @ a / 2]))


def test_what_is_not_for_this_model_is_refused(model, weights, tmp_path):
    path = tmp_path / "a.safetensors"
    lora = random_lora(weights, [TO_Q, CONV])
    write_lora(path, lora, "kohya")
    tensors = load_file(path)
    save_file(OrderedDict({**tensors, "lora_unet_other.lora_down.weight": torch.zeros(1, 2)}), path)
    with pytest.raises(BundleError, match="lacks its partner lora_unet_other.lora_up.weight"):
        read_lora(path, weights)
    save_file({name.replace("down_blocks_0", "down_blocks_7"): t for name, t in tensors.items()}, path)
    with pytest.raises(BundleError, match="down_blocks_7.* it is for another model"):
        read_lora(path, weights)
    save_file({**tensors, "lora_unet_x.hada_w1_a": torch.zeros(1)}, path)
    with pytest.raises(BundleError, match="no part of a LoRA of plain low-rank pairs"):
        read_lora(path, weights)
    save_lora(path, Lora(lora.changes, model="cd"))
    with pytest.raises(BundleError, match="made for the model cd, and this is ab"):
        read(model, str(path))
