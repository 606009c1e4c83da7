"""kill -9 at any step, then the same command: the same bits as a run that was left alone."""

import random
import signal

import killing
import pytest
from shapes_on_disk import make_shapes
from test_resume import assert_same, checkpoint

pytestmark = pytest.mark.slow
TIMES = 5


@pytest.fixture(scope="module")
def given(shapes, random_autoencoder, model_folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    names = {"shapes": shapes, "autoencoder": random_autoencoder, "model": model_folder, "cache": cache}
    return {name: str(path) for name, path in names.items()}


@pytest.mark.parametrize("stage", killing.STAGES)
def test_killed_at_five_steps_and_resumed_it_ends_as_if_left_alone(stage, given, tmp_path):
    assert killing.run(stage, tmp_path / "whole", given) == 0
    whole = checkpoint(tmp_path / "whole")
    for step in random.Random(stage).sample(range(killing.STEPS), TIMES):
        out = tmp_path / f"killed at {step}"
        assert killing.run(stage, out, given, kill_at=step) == -signal.SIGKILL
        assert killing.run(stage, out, given) == 0
        resumed = checkpoint(out)
        for part in ("global_step", "state_dict", "ema", "optimizer_states", "lr_schedulers"):
            assert_same(resumed[part], whole[part], f"{part} after kill at {step}")


def test_encoded_along_the_first_step_needs_few_of_many_pictures(given, tmp_path):
    shapes = tmp_path / "shapes"
    make_shapes(shapes / "train", 400, seed=2)
    make_shapes(shapes / "val", 8, seed=1)
    out = tmp_path / "run"
    assert killing.run("stage 2, encoded along", out, given | {"shapes": str(shapes)}, kill_at=0) == -signal.SIGKILL
    caches = [list(folder.glob("shard-*")) for folder in (out / "cache").iterdir()]
    pictures = 4 * max(map(len, caches))  # the validation pictures have a smaller cache of their own
    assert 0 < pictures <= 60  # of 400
