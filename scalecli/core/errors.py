"""The two ways a run can end badly, and the names a user may have meant.

Core code raises these; only :mod:`scalecli.cli.main` turns them into one line and an exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScalecliError(Exception):
    """Something went wrong while working. One line: what, where, what to do instead. Exit 1."""

    exit_code = 1


class UsageError(ScalecliError):
    """The request itself cannot be served as written. Exit 2."""

    exit_code = 2


class Interrupted(ScalecliError):
    """The user or the system ended the run: exit 130 after Ctrl-C, 143 after SIGTERM."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Terminated(BaseException):
    """SIGTERM arrived; as with KeyboardInterrupt, only the command line deals with it."""


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """A tail for an error about an unknown name: the closest known ones, or a short list.

    >>> did_you_mean("kmn5", ["knn5", "mlp-xy"])
    "did you mean 'knn5'?"
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=limit, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"known: {shown}"
