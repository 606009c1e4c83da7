"""A folder holds one run: what may change when it goes on, what may not, and what is known by its content."""

from dataclasses import dataclass, field

import pytest

from ldm.core.checkpoints import LAST
from ldm.core.config_io import from_dict, read_tree
from ldm.core.one_run import CODEC, DATA, SETTINGS, remember, same_run
from ldm.core.optim import OptimSpec


@dataclass(frozen=True, kw_only=True)
class Pictures:
    train: str = "here"
    batch: int = 4
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    data: Pictures = field(default_factory=Pictures)
    guess: Pictures | None = None
    optim: OptimSpec = field(default_factory=OptimSpec)
    shape: tuple[int, ...] = (1, 2)
    seed: int = 0


@pytest.fixture
def out(tmp_path):
    remember(Run(), {DATA: "a"}, tmp_path)
    (tmp_path / LAST).touch()
    return tmp_path


@pytest.mark.parametrize(
    "run",
    [
        Run(),
        Run(optim=OptimSpec(lr=1.0, steps=5, betas=(0.5, 0.5))),
        Run(data=Pictures(workers=3)),
        Run(data=Pictures(train="there")),
    ],
)
def test_it_goes_on_with_another_length_rate_and_place(run, out):
    found = {DATA: "a", CODEC: "not known before"}
    same_run(run, found, out)
    remember(run, found, out)
    assert from_dict(Run, read_tree(out / SETTINGS)) == run
    with pytest.raises(ValueError, match="another codec"):  # what was not known is known from now on
        same_run(run, found | {CODEC: "another"}, out)


@pytest.mark.parametrize(
    ("run", "found", "message"),
    [
        (Run(seed=1), "a", "with seed 0, and now it is 1; give another folder, or the old value"),
        (Run(data=Pictures(batch=8)), "a", "with data.batch 4, and now it is 8;"),
        (Run(guess=Pictures()), "a", "with guess null, and now it is a section;"),
        (Run(shape=(1, 2, 2)), "a", r"with shape \[1, 2\], and now it is \[1, 2, 2\];"),
        (Run(), "b", "with another data; give another folder, or what it began with"),
    ],
)
def test_another_run_is_refused_with_the_key_and_both_values(run, found, message, out):
    with pytest.raises(ValueError, match=f"^--out: {out} holds a run {message}"):
        same_run(run, {DATA: found}, out)


def test_a_place_counts_where_what_lay_there_is_not_known(tmp_path):
    remember(Run(), {}, tmp_path)
    (tmp_path / LAST).touch()
    with pytest.raises(ValueError, match="with data.train 'here', and now it is 'there'"):
        same_run(Run(data=Pictures(train="there")), {DATA: "a"}, tmp_path)


def test_a_folder_that_kept_nothing_holds_no_run_yet(out):
    (out / LAST).unlink()
    same_run(Run(seed=1), {DATA: "b"}, out)
    remember(Run(seed=1), {}, out)
    (out / LAST).touch()
    same_run(Run(seed=1), {DATA: "c"}, out)  # what the former run began with is forgotten
    with pytest.raises(ValueError, match="with seed 1, and now it is 0"):
        same_run(Run(), {DATA: "c"}, out)


def test_a_key_that_another_version_did_not_know_is_no_difference(out):
    text = (out / SETTINGS).read_text()
    (out / SETTINGS).write_text(text.replace("seed: 0", "seeds: 7"))
    same_run(Run(seed=1), {DATA: "a"}, out)
    (out / SETTINGS).write_text(text)
    with pytest.raises(ValueError, match="with seed 0, and now it is 1"):
        same_run(Run(seed=1), {DATA: "a"}, out)
