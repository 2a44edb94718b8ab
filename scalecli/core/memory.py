"""How much memory this process has held."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path


def peak_mb() -> float:
    """Highest resident memory of this process so far, MB (10^6 bytes).

    On Linux that of this program alone: ``ru_maxrss`` also remembers what ran in the process
    before it, such as the parent's copy that became this one.
    """
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if found := re.search(r"VmHWM:\s*(\d+) kB", status):
            return int(found[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def forget_peak() -> bool:
    """Let :func:`peak_mb` begin anew with what is held now; whether that is possible here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
