import math

import pytest
import torch

from ldm.nets.attention import Attention, FeedForward, SpatialTransformer, only_words, use_attention


def transformer(**changes) -> SpatialTransformer:
    options = {
        "heads": 2,
        "depth": 2,
        "context_dim": 6,
        "linear_projection": False,
        "ff_mult": 4,
        "norm_groups": 4,
    }
    return SpatialTransformer(16, **(options | changes)).double()


def awaken(net: torch.nn.Module) -> None:
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


def test_a_row_without_words_receives_exactly_the_bias():
    attention = Attention(8, 6, heads=2)
    tokens, mask = only_words(torch.full((2, 3, 6), math.nan), torch.zeros(2, 3, dtype=torch.bool))
    out = attention(torch.randn(2, 5, 8), torch.zeros(2, 5, 8), tokens, mask)
    assert torch.equal(out, attention.to_out.bias.expand(2, 5, 8))


def test_no_mask_leaves_the_tokens_alone():
    tokens = torch.randn(2, 3, 6)
    out, mask = only_words(tokens, None)
    assert out is tokens and mask is None


def test_self_attention_ignores_the_order_of_its_rows():
    attention, x, order = Attention(8, 8, heads=4).double(), torch.randn(2, 7, 8).double(), torch.randperm(7)
    torch.testing.assert_close(attention(x, x)[:, order], attention(x[:, order], x[:, order]))


def test_feed_forward_with_a_closed_gate_is_its_bias():
    block = FeedForward(4, mult=3)
    torch.nn.init.zeros_(block.linear_in.weight[12:])
    torch.nn.init.zeros_(block.linear_in.bias[12:])  # gelu(0) = 0
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(block(x, x), x + block.linear_out.bias)


@pytest.mark.parametrize("linear", [False, True])
def test_transformer_starts_as_the_identity(linear):
    x = torch.randn(2, 16, 4, 4).double()
    assert torch.equal(transformer(linear_projection=linear)(x, torch.randn(2, 3, 6).double(), None), x)


def test_linear_and_convolutional_projections_are_one_function():
    conv, linear = transformer(linear_projection=False), transformer(linear_projection=True)
    awaken(conv)
    weights = {name: w.flatten(1) if w.ndim == 4 else w for name, w in conv.state_dict().items()}
    linear.load_state_dict(weights)
    x, context = torch.randn(2, 16, 4, 6).double(), torch.randn(2, 3, 6).double()
    torch.testing.assert_close(conv(x, context, None), linear(x, context, None))


def test_transformer_commutes_with_moving_pixels():  # it has no position of its own
    net = transformer()
    awaken(net)
    x, context = torch.randn(2, 16, 4, 6).double(), torch.randn(2, 3, 6).double()
    torch.testing.assert_close(net(x.roll((1, 2), (2, 3)), context, None), net(x, context, None).roll((1, 2), (2, 3)))


def test_without_context_width_the_words_have_no_weights():
    net = transformer(context_dim=0)
    awaken(net)
    x = torch.randn(2, 16, 2, 2).double()
    assert torch.equal(net(x, torch.zeros(2, 1, 3).double(), None), net(x, torch.ones(2, 4, 9).double(), None))


def test_a_network_is_computed_by_the_kernel_that_it_was_given():
    net, asked = transformer(), []

    def zero(q, k, v, mask):
        asked.append(q.shape)
        return torch.zeros_like(q)

    use_attention(net, zero)
    net(torch.randn(2, 16, 2, 3).double(), torch.randn(2, 3, 6).double(), None)
    assert asked == [(2, 6, 2, 8)] * 4  # to itself and to the words, in two layers
