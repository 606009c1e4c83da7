"""Fine-tuning on two processes: the steps of one, and one line for what they cannot share."""

import pytest
import stages
from test_processes import checkpoint, run_two, start_two
from test_sharded import parts_of

pytestmark = pytest.mark.slow


def options(method, shapes, model, out, *changes) -> list[str]:
    settings = ("optim.steps=3", "optim.warmup=0", "optim.lr=0.001", "validate_every=2", "data.batch=4")
    settings += ("precision=32-true", f"data.cache={out.parent}/cache", 'prompts=["a red circle"]', *changes)
    fixed = ["--model", model, "--data", shapes / "train", "--method", method, "--out", out, "--token", "scribble"]
    return [*map(str, fixed), *stages._set(settings)]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lora", ("prior={pictures: 4, steps: 1, share: 0.5}",)),
        ("full", ()),
        ("full", ("trainer.strategy=fsdp", "data.encode=along")),
    ],
)
def test_two_processes_take_the_steps_of_one(method, changes, shapes, model_folder, tmp_path):
    one, two = tmp_path / "1/one", tmp_path / "2/two"
    run_two("finetune", *options(method, shapes, model_folder, two, *changes))
    stages.finish(stages.start("finetune", *options(method, shapes, model_folder, one, *changes)))
    ours, theirs = parts_of(checkpoint(two)), parts_of(checkpoint(one))
    for name, vector in theirs.items():
        assert vector.norm() > 0 and (ours[name] - vector).norm() <= 1e-6 * vector.norm(), name
    names = [sorted(path.name for path in out.glob("*.safetensors")) for out in (one, two)]
    assert names[0] == names[1] and (two / "samples.png").is_file()


def test_what_processes_cannot_share_is_refused(shapes, model_folder, tmp_path):
    cases = [
        ("lora", ("data.batch=5",), "data.batch: 5 cannot be shared evenly by 2 processes"),
        ("lora", ("trainer.strategy=fsdp",), "trainer.strategy: 'fsdp' is for --method full"),
    ]
    for method, changes, message in cases:
        for process in start_two("finetune", *options(method, shapes, model_folder, tmp_path / "out", *changes)):
            _, err = process.communicate(timeout=170)
            assert process.returncode == 2 and message in err.splitlines()[-1], err
