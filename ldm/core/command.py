"""How a script ends: a user's mistake is one line on stderr and exit code 2, never a traceback."""

import atexit
import os
import sys
from collections.abc import Callable


def run(main: Callable[[], None]) -> None:
    """Call `main`; turn the errors that a user can cause into one line and exit code 2, Ctrl-C into 130."""
    code = 0
    try:
        main()
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        sys.stderr.write(f"error: {text}\n")
        code = 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
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
