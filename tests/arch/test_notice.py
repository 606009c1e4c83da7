"""Everything that the data script fetches is credited, by name and with its licence."""

import re
from pathlib import Path

import pytest

from ldm.data.emoji import packages

NOTICE = (Path(__file__).parents[2] / "NOTICE").read_text()
CREDITS = re.findall(r"^\S.*(?:\n    .*)+", NOTICE, flags=re.MULTILINE)  # a line and the indented ones under it
PACKAGES = [value for value in vars(packages).values() if isinstance(value, packages.Package)]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_what_is_fetched_is_credited(package):
    (credit,) = (credit for credit in CREDITS if package.name in re.split(r"[\s:,]+", credit))
    assert all(licence in credit for licence in package.licence.split(", "))


def test_there_is_something_to_credit():
    assert len(PACKAGES) >= 8
