"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from scalecli.core.errors import ScalecliError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that replaces it when the block succeeds.

    Raises:
        ScalecliError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    begin, token, end = f".{path.stem}.", secrets.token_hex(4), f".part{path.suffix}"
    temporary = path.with_name(begin + token + end)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What a killed process left of this file goes when the file is made again.
        for name in os.listdir(path.parent):
            if name.startswith(begin) and name.endswith(end) and len(name) == len(temporary.name):
                (path.parent / name).unlink(missing_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> ScalecliError:
    """One line about a failed write, with what to do when the disk is full."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "; free some space, then continue with --resume" if full else ""
    return ScalecliError(f"cannot write {path}: {error.strerror or error}{advice}")


def write_text(path: Path, text: str) -> None:
    r"""Write ``text`` (UTF-8) to ``path`` atomically.

    File names that are not UTF-8 reach us as lone surrogates: they are written as ``\udc80``.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def slug(text: str, *, limit: int = 48) -> str:
    """A short file-name part from any text: no separators, never empty, never hidden.

    >>> slug("a photo/of ../a dog")
    'a-photo-of-a-dog'
    """
    plain = unicodedata.normalize("NFKC", text)
    plain = re.sub(r"[^\w]+", "-", plain, flags=re.UNICODE).strip("-_")
    # File systems limit names in bytes, not characters.
    plain = plain.encode()[:limit].decode(errors="ignore").strip("-_")
    return plain or "x"
