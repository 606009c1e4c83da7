"""docs/theory.md names functions and tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"`([\w/]+\.py)::(\w+)`")


def names_in(path: Path) -> set[str]:
    return {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def test_every_name_in_the_theory_exists():
    links = LINK.findall((ROOT / "docs" / "theory.md").read_text())
    assert len(links) > 100
    assert [f"{file}::{name}" for file, name in links if name not in names_in(ROOT / file)] == []


def test_every_row_names_a_function_and_a_test():
    rows = [r for r in (ROOT / "docs" / "theory.md").read_text().splitlines() if r.startswith("| ") and "::" in r]
    for row in rows[1:]:  # the first is in the table of symbols
        files = [file for file, _ in LINK.findall(row)]
        assert any(f.startswith("tests/") for f in files) and any(not f.startswith("tests/") for f in files), row
