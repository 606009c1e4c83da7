"""Memory of this process, as the system counts it."""

import resource
import sys
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> int:
    """Bytes of main memory that the process holds now; where that cannot be read, the most that it ever held."""
    return _field("VmRSS") or _most()


def most_resident() -> int:
    """The most bytes that it held since its start, or since `forget_most`."""
    return _field("VmHWM") or _most()


def forget_most() -> None:
    """Start counting `most_resident` from now, where the system can (Linux)."""
    if _RESET.exists():
        _RESET.write_text("5")


def _field(name: str) -> int:
    if not _STATUS.exists():
        return 0
    found = [line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(found[0]) if found else 0


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
