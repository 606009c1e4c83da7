"""How a script begins and ends: a user's mistake is one line on stderr and exit code 2, never a traceback."""

import argparse
import atexit
import difflib
import os
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

UNKNOWN = "unrecognized arguments: "  # argparse's words


def parsed(parser: argparse.ArgumentParser, other_names: Mapping[str, str] | None = None) -> argparse.Namespace:
    """The options of the command line; --help tells the defaults, and a mistake is an error of one line.

    Args:
        parser: of the script.
        other_names: what other programs call an option -> what it is called here.

    Raises:
        ValueError: an option is unknown, missing, or its value is none.
    """
    for action in parser._actions:
        told = action.help is None or action.help == argparse.SUPPRESS or "default" in action.help
        unset = action.default is None or action.default is False or action.default in ("", [], argparse.SUPPRESS)
        if not told and not unset:
            action.help = f"{action.help} (default: %(default)s)"

    def refuse(message: str) -> NoReturn:
        if message.startswith(UNKNOWN):
            name = (message.removeprefix(UNKNOWN).split() or ["''"])[0].partition("=")[0]
            message = f"{name}: unknown{_meant(name, parser, other_names or {})}"
        raise ValueError(f"{message}; --help lists the options")

    parser.error = refuse  # type: ignore[method-assign]  # argparse's own prints the whole usage first
    return parser.parse_args()


def _meant(name: str, parser: argparse.ArgumentParser, other_names: Mapping[str, str]) -> str:
    known = [option for action in parser._actions for option in action.option_strings]
    near = [other_names[name]] if name in other_names else difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def run(main: Callable[[], None]) -> None:
    """Call `main`; turn the errors that a user can cause into one line and exit code 2, Ctrl-C into 130."""
    code = 0
    try:
        main()
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        sys.stderr.write(f"error: {text}\n")
        code = 2
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{' '.join(['stopped', *map(str, stop.args)])}\n")
        code = 130
    if _among_others():
        _leave(code)
    if code:
        sys.exit(code)


def _among_others() -> bool:
    """Whether this is one of the processes of a run; asked without importing torch for it."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _leave(code: int) -> None:
    """End without taking the interpreter apart.

    The threads of gloo may still hold tensors of the last exchange. One that lets go of them while the interpreter
    goes away is ended within a destructor, and the process aborts after its work is done
    (https://github.com/pytorch/pytorch/issues/190489). `destroy_process_group` does not wait for them.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
