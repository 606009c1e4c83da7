"""Configurations: what is written is read back, and nothing is silently ignored."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from autoencoder.config import AutoencoderConfig
from ldm.core.config_io import ConfigError, dump_yaml, from_dict, load, to_dict


@dataclass(frozen=True, kw_only=True)
class Straight:
    kind: Literal["straight"] = "straight"
    slope: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Curved:
    kind: Literal["curved"] = "curved"
    power: float = 2.0

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise ValueError(f"power: {self.power} must be above 0")


@dataclass(frozen=True, kw_only=True)
class Run:
    line: Straight | Curved = field(default_factory=Straight)
    mult: tuple[int, ...] = (1, 2)
    rate: float = 0.5
    limit: int | None = None
    fast: bool = False


@pytest.fixture
def write(tmp_path):
    def writer(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return writer


def test_dictionary_round_trip():
    overrides = {"model": {"mult": [1, 3], "decoder_channels": 96}, "loss": {"reconstruction": {"kind": "gaussian"}}}
    config = from_dict(AutoencoderConfig, overrides)
    assert config.model.mult == (1, 3) and config.model.decoder_channels == 96
    assert from_dict(AutoencoderConfig, to_dict(config)) == config


def test_yaml_round_trip(write):
    config = AutoencoderConfig(precision="32-true", seed=7)
    assert load(write("run.yaml", dump_yaml(config)), AutoencoderConfig) == config


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"^config\.optim\.warmpu: unknown key; did you mean 'warmup'\?$"):
        from_dict(AutoencoderConfig, {"optim": {"warmpu": 5}})


def test_a_union_is_chosen_by_kind():
    assert from_dict(Run, {"line": {"kind": "curved", "power": 3}}).line == Curved(power=3.0)
    with pytest.raises(ConfigError, match=r"^config\.line\.kind: 'curvd'; did you mean 'curved'\?$"):
        from_dict(Run, {"line": {"kind": "curvd"}})
    with pytest.raises(ConfigError, match=r"^config\.line\.slope: unknown key; known: kind, power$"):
        from_dict(Run, {"line": {"kind": "curved", "slope": 1.0}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate", "fast"),
        ("rate", True),
        ("limit", 1.5),
        ("fast", 1),
        ("mult", 3),
        ("mult", [1, "a"]),
        ("line", None),
        ("line", {"kind": ["curved"]}),
        ("line", {"kind": "curved", "power": -1}),
    ],
)
def test_a_wrong_value_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"^config\.{key}[^\n]*$"):
        from_dict(Run, {key: value})


def test_overrides_are_read_as_yaml(write):
    path = write("run.yaml", "rate: 3e-2\nline: {kind: curved}\n")  # YAML 1.1 reads a number without a dot as text
    run = load(path, Run, ["rate=1e-4", "line.power=4", "mult=[2, 4]", "limit=null", "fast=true"])
    assert run == Run(line=Curved(power=4.0), mult=(2, 4), rate=1e-4, limit=None, fast=True)
    assert load(path, Run).rate == 0.03


@pytest.mark.parametrize("item", ["rate", "rate.deep=1", "ratee=1", "rate=[1", "=3"])
def test_a_wrong_override_is_refused(item, write):
    with pytest.raises(ConfigError, match="rate|config"):
        load(write("run.yaml", "rate: 1.0\n"), Run, [item])


def test_a_file_changes_its_base(write):
    write("base.yaml", "rate: 2.0\nlimit: 9\nline: {kind: curved, power: 5}\n")
    child = write("child.yaml", "base: base.yaml\nrate: 3.0\nline: {power: 6}\n")
    assert load(child, Run) == Run(line=Curved(power=6.0), rate=3.0, limit=9)
    other_kind = write("other.yaml", "base: base.yaml\nline: {kind: straight}\n")
    assert load(other_kind, Run).line == Straight()
    with pytest.raises(ConfigError, match="one level deep"):
        load(write("grandchild.yaml", "base: child.yaml\n"), Run)


def test_a_file_that_cannot_be_read_is_named(write, tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x80")
    for path in (tmp_path / "missing.yaml", binary, write("list.yaml", "[1]"), write("broken.yaml", "a: [")):
        with pytest.raises(ConfigError, match=rf"^{path}: [^\n]*$"):
            load(path, Run)
