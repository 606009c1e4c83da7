"""How a script ends: a user's mistake is one line on stderr and exit code 2, never a traceback."""

import sys
from collections.abc import Callable


def run(main: Callable[[], None]) -> None:
    """Call `main`; turn the errors that a user can cause into one line and exit code 2, Ctrl-C into 130."""
    try:
        main()
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        sys.stderr.write(f"error: {text}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
