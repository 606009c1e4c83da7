"""A small CLIP tower from scratch learns beside the U-Net, is saved with it and found again."""

import pytest
import stages
import torch

from ldm.core.bundle import load_bundle
from ldm.model_folder import load_model

TOWER = ("text={kind: clip, width: 32, layers: 2, heads: 2, max_tokens: 16, pooled: true, trainable: true}",)
NET = ("net.context_dim=32", "net.pooled_dim=32", "optim.steps=4", "validate_every=4")


@pytest.mark.slow
def test_a_tower_from_scratch_is_trained_and_kept(shapes, random_autoencoder, tmp_path):
    options = stages.ldm_options(shapes, random_autoencoder, tmp_path / "ldm", *TOWER, *NET)
    folder = stages.finish(stages.start("train_ldm", *options)).splitlines()[-1]
    stored = load_bundle(f"{folder}/ldm.safetensors").weights
    model, again = load_model(folder), load_model(folder)
    tower = model.learned()["text"].state_dict()
    assert tower and all(torch.equal(w, stored[f"text.{name}"].float()) for name, w in tower.items())
    states = model.condition(["a red circle", "a blue circle"])
    assert torch.equal(states.tokens, again.condition(["a red circle", "a blue circle"]).tokens)
    assert states.pooled is not None and not torch.equal(states.pooled[0], states.pooled[1])

    checkpoint = torch.load(tmp_path / "ldm" / "last.ckpt", weights_only=True)
    moments = [entry["exp_avg"] for entry in checkpoint["optimizer_states"][0]["state"].values()]
    count = sum(w.numel() for w in stored.values())
    assert sum(m.numel() for m in moments) == count  # every weight of both has been stepped
