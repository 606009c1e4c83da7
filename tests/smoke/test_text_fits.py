"""Stage 2 refuses a network that does not fit its text encoder, before any work starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from ldm.config import RunConfig
from ldm.nets.text import ClipSpec
from ldm.nets.unet import UNetSpec
from ldm.training.fit import fit

NET = UNetSpec(channels=32, mult=(1,), attention_levels=(0,), context_dim=384, pooled_dim=384)
PIXELS = replace(RunConfig().codec, path="")


@pytest.mark.parametrize("field", ["context_dim", "pooled_dim"])
def test_a_width_that_differs_is_named(tmp_path, field):
    config = RunConfig(codec=PIXELS, net=replace(NET, **{field: 64}))
    with pytest.raises(ValueError, match=f"net.{field}: 64, but the text encoder gives 384"):
        fit(config, Path(tmp_path))


def test_an_encoder_that_would_stay_random_is_refused(tmp_path):
    small = ClipSpec(width=32, layers=1, heads=2)
    config = RunConfig(codec=PIXELS, net=replace(NET, context_dim=32, pooled_dim=0), text=small)
    with pytest.raises(ValueError, match="would stay random; set trainable to true"):
        fit(config, Path(tmp_path))
