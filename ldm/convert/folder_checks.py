"""What every configuration file of a diffusers folder is checked for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ldm.core.bundle import BundleError

Spec = TypeVar("Spec")
Config = Mapping[str, Any]

DIFFUSERS = "0.38.0"  # the oldest version that the written folders were made for


def check_fixed(config: Config, fixed: Config, where: Path) -> None:
    """Refuse a configuration that has another value where ours have none to choose.

    Args:
        config: as read; a key that is absent has the fixed value.
        fixed: keys and their only values.
        where: folder of the configuration, for messages.

    Raises:
        BundleError: a key has another value.
    """
    for key, value in fixed.items():
        given = config.get(key, value)
        if isinstance(given, list) and len(set(map(str, given))) == 1:
            given = given[0]
        if given != value:
            raise BundleError(
                f"{where / 'config.json'}: {key} is {given!r}, where Stable Diffusion 1 and 2 have {value!r}; this is "
                "another model"
            )


def check_sizes(config: Config, most: Mapping[str, int], where: Path) -> None:
    """Refuse a configuration whose sizes are no whole numbers of 1 or more, or too large for any such network.

    Args:
        config: as read; a key that is absent is not looked at, nor null.
        most: keys and their largest values. A list of numbers is one for each level.
        where: the file, for messages.

    Raises:
        BundleError: names the key.
    """
    for key, limit in most.items():
        given = config.get(key)
        for value in given if isinstance(given, list) and given else [] if given is None else [given]:
            if type(value) is not int or not 1 <= value <= limit:
                raise BundleError(f"{where}: {key} is {given!r}; it is whole numbers in 1..{limit}")


def reading(read: Callable[[], Spec], where: Path) -> Spec:
    """What `read` makes of a configuration.

    Raises:
        BundleError: a key is missing, or a value cannot be used.
    """
    try:
        return read()
    except KeyError as error:
        raise BundleError(f"{where}: key {error} is missing") from error
    except BundleError:
        raise
    except (ValueError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise BundleError(f"{where}: {error}") from error
