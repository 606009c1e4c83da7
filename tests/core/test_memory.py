"""What is held is counted as it lives and dies; a lack of memory is recognised whoever reports it."""

import pytest
import torch
import torch.nn.functional as F

from ldm.core.memory import forget_most, held_at_most, lacks_memory, most_resident, resident

SIZE = 4000  # bytes of a tensor of 1000 numbers


@pytest.mark.parametrize(
    ("run", "held"),
    [
        (lambda x: x + 1, 1),
        (lambda x: ((x + 1) * 2) * 2, 2),  # a link of a chain lives until the next one is there
        (lambda x: (x + 1).reshape(10, 100).transpose(0, 1)[3:], 1),  # views hold nothing of their own
        (lambda x: F.silu(x + 1, inplace=True), 1),
        (lambda x: [x + i for i in range(5)], 5),
        (lambda x: torch.cat([x + 1, x + 2]), 4),
    ],
)
def test_living_tensors_are_counted(run, held):
    x = torch.empty(1000, device="meta")
    assert held_at_most(lambda: run(x)) == held * SIZE


def test_fused_attention_holds_no_scores():
    q = torch.empty(2, 3, 500, 8, device="meta")
    assert held_at_most(lambda: F.scaled_dot_product_attention(q, q, q)) == 4 * q.numel()


def test_a_lack_of_memory_is_recognised():
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(2**58)
    assert lacks_memory(refusal.value)
    assert lacks_memory(torch.OutOfMemoryError("CUDA out of memory.")) and lacks_memory(MemoryError())
    assert not lacks_memory(RuntimeError("shapes do not fit")) and not lacks_memory(ValueError("out of memory"))


def test_what_the_process_held_is_seen():
    before = resident()
    forget_most()
    block = torch.ones(2**24)
    del block
    assert most_resident() - before >= 0.9 * 4 * 2**24
