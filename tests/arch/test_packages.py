"""pyproject.toml, environment.yml and constraints.txt name the same packages and agree on their versions."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
NAMED_BY_CONDA = (
    "data",
    "eval",
    "finetune",
    "parquet",
    "cuda",
)  # the extras of a user with a GPU; `test` is for developers


def by_name(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def extras(*names: str) -> list[str]:
    lines = [line for name in names for line in PROJECT["optional-dependencies"][name]]
    return [line for line in lines if Requirement(line).name != PROJECT["name"]]


def pinned(requirement: Requirement) -> str | None:
    """The version of a `name==version`; None for any other bound."""
    bounds = list(requirement.specifier)
    return bounds[0].version if len(bounds) == 1 and bounds[0].operator == "==" else None


DECLARED = by_name(PROJECT["dependencies"] + extras(*PROJECT["optional-dependencies"]))
PINS = by_name([line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")])
(PIP,) = (entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
CONDA = by_name([line for line in PIP if not line.startswith("--")])


def test_conda_names_what_the_project_names():
    assert set(CONDA) == set(by_name(PROJECT["dependencies"] + extras(*NAMED_BY_CONDA)))
    assert "--editable ." in PIP


@pytest.mark.parametrize("name", sorted(CONDA))
def test_conda_agrees_with_the_bounds(name):
    version = pinned(CONDA[name])
    bound = DECLARED[name].specifier
    assert CONDA[name].specifier == bound if version is None else bound.contains(version)


def test_conda_python_is_recent_enough():
    (python,) = (line for line in ENVIRONMENT["dependencies"] if str(line).startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.partition("=")[2])


@pytest.mark.parametrize("name", sorted(set(DECLARED) - {"xformers"}))  # built for another torch than the tests use
def test_constraints_pin_every_package_within_its_bounds(name):
    version = pinned(PINS[name])
    assert version is not None and DECLARED[name].specifier.contains(version)


def test_constraints_hold_exact_versions_only():
    assert not [name for name, requirement in PINS.items() if pinned(requirement) is None]
    assert not [name for name in PINS if name.startswith(("nvidia-", "cuda-"))], "torch chooses its own CUDA packages"
