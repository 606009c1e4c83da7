"""The rules of CONTRIBUTING.md that a program can check, on the syntax tree of every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = ("ldm", "autoencoder")
EVERYWHERE = (*LIBRARIES, "scripts", "benchmarks", "tests")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a file imports, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def uses_networks(tree: ast.AST) -> bool:
    imported = any(name == "torch.nn" or name.startswith("torch.nn.") for name in imports(tree))
    named = any(isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.nn" for node in ast.walk(tree))
    return imported or named


def prints(tree: ast.AST) -> bool:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == "print" for function in calls)


def postpones_annotations(tree: ast.AST) -> bool:
    return "__future__.annotations" in imports(tree)


@pytest.mark.parametrize("path", sources("ldm/process"), ids=name_of)
def test_the_maths_knows_no_network(path):
    assert not uses_networks(ast.parse(path.read_text())), "torch.nn in the maths: move it to ldm/nets"


@pytest.mark.parametrize("path", sources(*LIBRARIES), ids=name_of)
def test_libraries_do_not_print(path):
    assert not prints(ast.parse(path.read_text())), "a library returns, warns or logs; scripts print"


@pytest.mark.parametrize("path", sources(*EVERYWHERE), ids=name_of)
def test_annotations_stay_real(path):
    assert not postpones_annotations(ast.parse(path.read_text())), "it would hide the shapes from jaxtyping"


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (uses_networks, "import torch.nn as nn"),
        (uses_networks, "from torch import nn"),
        (uses_networks, "from torch.nn.functional import silu"),
        (uses_networks, "y = torch.nn.functional.silu(x)"),
        (prints, "def f():\n    print(1)"),
        (postpones_annotations, "from __future__ import annotations"),
    ],
)
def test_each_rule_sees_its_case(rule, line):
    assert rule(ast.parse(line))
    assert not rule(ast.parse("import torch\nfrom torch import Tensor\nlog(1)\nblueprint.print_out(2)"))
