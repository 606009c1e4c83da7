"""CLIP's causal text transformer: token ids to the states of one of its layers, and of the last."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ldm.nets.words import Extended, Ids

States = Float[Tensor, "b n d"]


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the approximation of GELU that OpenAI's weights were trained with.

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415) section 2.
    """

    def forward(self, x: States) -> States:
        return x * torch.sigmoid(1.702 * x)


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and those before it.

    Args:
        width: of the states, a multiple of `heads`.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(
            torch.empty(3 * width, width)
        )  # rows of q, k and v, named as stored models do
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: States) -> States:
        """(b, n, width) -> (b, n, width)."""
        stacked = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = stacked.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (b, heads, n, width / heads)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers, four times as wide between them: (b, n, width) -> (b, n, width)."""

    def __init__(self, width: int, quick_gelu: bool):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = QuickGELU() if quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: States) -> States:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Attention, then the feed-forward layers, each of the normalised states and added to them."""

    def __init__(self, width: int, heads: int, quick_gelu: bool):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, quick_gelu)

    def forward(self, x: States) -> States:
        """(b, n, width) -> (b, n, width)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ClipTower(nn.Module):
    """Token and position embeddings, blocks, and a normalisation of what is taken from any of them.

    Modules and tensors have open_clip's names, which are those of stored models and of Stable Diffusion 2.

    Args:
        vocab: number of token ids.
        positions: longest text.
        width: of the states.
        layers: blocks that are there.
        heads: attention heads, a divisor of `width`.
        quick_gelu: the approximate activation of OpenAI's weights.
        depth: blocks that random weights are scaled for; those after `layers` are left out.

    Source: Radford et al. 2021 (arXiv:2103.00020) section 2.4; normalised before each layer, and initialised, as in
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
    """

    def __init__(
        self, *, vocab: int, positions: int, width: int, layers: int, heads: int, quick_gelu: bool, depth: int
    ):
        super().__init__()
        self.token_embedding: nn.Embedding | Extended = nn.Embedding(vocab, width)
        self.positional_embedding = nn.Parameter(torch.empty(positions, width))
        blocks = nn.ModuleList(Block(width, heads, quick_gelu) for _ in range(layers))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(width)
        self._draw(depth)

    def forward(self, ids: Ids, layers: Sequence[int]) -> list[States]:
        """Normalised states (b, n, width) after each of `layers`, counted from 0."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        dtype, states = x.dtype, []
        for block in self._blocks():
            x = block(x)
            states.append(x)
        return [self.ln_final(states[layer]).to(dtype) for layer in layers]

    def _blocks(self) -> Iterable[nn.Module]:
        blocks = self.transformer["resblocks"]
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    def _draw(self, depth: int) -> None:
        """Random weights: unit variance through each layer, less in what is added to the states the deeper they are."""
        width = self.ln_final.weight.shape[0]
        added = (2 * depth * width) ** -0.5
        assert isinstance(self.token_embedding, nn.Embedding)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        for block in self._blocks():
            assert isinstance(block, Block)
            nn.init.zeros_(block.attn.out_proj.bias)
            for weight, std in (
                (block.attn.in_proj_weight, width**-0.5),
                (block.attn.out_proj.weight, added),
                (block.mlp.c_fc.weight, (2 * width) ** -0.5),
                (block.mlp.c_proj.weight, added),
            ):
                nn.init.normal_(weight, std=std)
