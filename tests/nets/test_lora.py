"""A low-rank change of weights: what it adds, how it stacks, what it refuses."""

import pytest
import torch
from torch import nn

from ldm.core.bundle import BundleError
from ldm.nets.lora import Lora, LowRank, merge, merged, parse_lora, read_tensors, save_lora


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))})


def a_lora(rank=2, alpha=3.0, seed=1, **said):
    generator = torch.Generator().manual_seed(seed)

    def low(*down, up):
        return LowRank(torch.randn(*down, generator=generator), torch.randn(*up, generator=generator), alpha)

    changes = {"net.0.weight": low(rank, 3, 3, 3, up=(8, rank, 1, 1)), "net.2.weight": low(rank, 128, up=(5, rank))}
    return Lora(changes, **said)


def test_a_merged_change_is_the_two_small_layers_beside_the_large_one():
    lora, plain, changed = a_lora(), network(), network()
    merge(changed, lora, 0.7, "a")
    x = torch.randn(2, 3, 4, 4)
    conv, linear = lora.changes["net.0.weight"], lora.changes["net.2.weight"]
    y = plain["net"][0](x)
    y = y + 0.7 * 3 / 2 * nn.functional.conv2d(nn.functional.conv2d(x, conv.down, padding=1), conv.up)
    y = y.flatten(1)
    expected = plain["net"][2](y) + 0.7 * 3 / 2 * y @ linear.down.T @ linear.up.T
    torch.testing.assert_close(changed["net"](x), expected, rtol=1e-4, atol=1e-3)


def test_changes_add_up_whatever_their_order():
    one, other = network(), network()
    merge(one, a_lora(seed=1), 0.5, "a")
    merge(one, a_lora(seed=2, rank=4), -1.0, "b")
    merge(other, a_lora(seed=2, rank=4), -1.0, "b")
    merge(other, a_lora(seed=1), 0.5, "a")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_scale_zero_and_leaving_the_block_are_the_former_bits():
    net, before = network(), network()
    with merged(net, a_lora(), 1.0, "a"):
        assert not torch.equal(net["net"][2].weight, before["net"][2].weight)
    merge(net, a_lora(), 0.0, "a")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))


def test_a_file_says_what_was_saved(tmp_path):
    lora = a_lora(model="ab" * 32, words=("ink", "<kätzchen>"))
    save_lora(tmp_path / "a.safetensors", lora)
    tensors, header = read_tensors(tmp_path / "a.safetensors")
    found = parse_lora("a", tensors, header)
    assert (found.model, found.words, header["rank"]) == (lora.model, lora.words, "[2]")
    for name, change in lora.changes.items():
        assert torch.equal(found.changes[name].delta(), change.delta())


@pytest.mark.parametrize(
    ("name", "down", "message"),
    [("net.9.weight", (2, 128), "does not have"), ("net.2.weight", (2, 64), "its change is \\(5, 64\\)")],
)
def test_a_change_of_another_network_is_refused_before_anything_is_changed(name, down, message):
    net, before = network(), network()
    lora = a_lora()
    wrong = Lora({**lora.changes, name: LowRank(torch.zeros(down), torch.zeros(5, 2), 1.0)})
    with pytest.raises(BundleError, match=message):
        merge(net, wrong, 1.0, "a")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))


def test_what_is_no_lora_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no such file"):
        read_tensors(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"a picture, perhaps")
    with pytest.raises(BundleError, match="not a safetensors file"):
        read_tensors(tmp_path / "a.safetensors")
    lora = a_lora()
    save_lora(tmp_path / "b.safetensors", lora)
    tensors, header = read_tensors(tmp_path / "b.safetensors")
    del tensors["net.0.weight.lora_B"]
    with pytest.raises(BundleError, match="net.0.weight has A but lacks lora_B"):
        parse_lora("b", tensors, header)
