"""Refusals of numbers in a configuration, before any work starts: not-a-number fails every one of them."""

from typing import Any


def at_least(low: int | float, **values: int | float | None) -> None:
    """Refuse named numbers below `low`; None is a number that is not set.

    Raises:
        ValueError: the first that is below, or not a number.
    """
    for name, value in values.items():
        if value is not None and not low <= value < float("inf"):
            raise ValueError(f"{name}: {value}; give a number of at least {low}")


def above(low: int | float, **values: int | float | None) -> None:
    """Refuse named numbers that are not above `low`; None is a number that is not set.

    Raises:
        ValueError: the first that is not above, or not a number.
    """
    for name, value in values.items():
        if value is not None and not low < value < float("inf"):
            raise ValueError(f"{name}: {value}; give a number above {low}")


def share(**values: int | float) -> None:
    """Refuse named shares outside [0, 1].

    Raises:
        ValueError: the first that is outside, or not a number.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: {value} is outside [0, 1]; it is a share")


def run_lengths(config: Any) -> None:
    """Refuse what no run can keep to: `validate_every`, `save_every` and, where a configuration has it, `keep`.

    Raises:
        ValueError: one of them is below 1.
    """
    at_least(1, validate_every=config.validate_every, save_every=config.save_every, keep=getattr(config, "keep", None))
