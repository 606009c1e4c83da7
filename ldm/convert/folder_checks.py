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
