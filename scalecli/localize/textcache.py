"""Text embeddings kept across runs: texts repeat from run to run far more than images do.

One SQLite file in the user's cache folder: its transactions are atomic, and many processes may
share it. A cache that cannot be read or written is left alone; texts are then just encoded.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

VERSION = 1
"""Part of every key: raise it when the same sentence and weights would give other vectors."""
LARGEST = 2**30
"""Bytes of the file at which it is started anew."""
Encode = Callable[[Sequence[str]], Tensor]


def cache_folder() -> Path | None:
    """This user's cache folder for scalecli; None if there is no home."""
    given = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
        return (Path(given) if given else Path.home() / usual) / "scalecli"
    except RuntimeError:
        return None


class CachedText:
    """A text encoder that asks its cache first.

    Args:
        encode: sentences to float32 vectors [P, E] on the CPU.
        fingerprint: identity of the text model's weights.
        folder: where the cache file lies; by default :func:`cache_folder`.
    """

    def __init__(self, encode: Encode, fingerprint: str, folder: Path | None = None) -> None:
        self.encode = encode
        self.key = f"{VERSION}:{fingerprint}"
        folder = folder or cache_folder()
        self.file = folder / "texts.sqlite" if folder else None

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Vectors [P, E] of sentences; each different one not in the cache is encoded once."""
        unique = list(dict.fromkeys(sentences))
        known = self._read(unique)
        missing = [s for s in unique if s not in known]
        if missing:
            fresh = dict(zip(missing, self.encode(missing).float().cpu(), strict=True))
            self._write(fresh)
            known.update(fresh)
        return torch.stack([known[s] for s in sentences])

    def _read(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with self._open() as store:
            if store is None:
                return found
            for sentence in sentences:
                row = store.execute(
                    "SELECT vector FROM texts WHERE key = ? AND sentence = ?",
                    (self.key, _plain(sentence)),
                ).fetchone()
                if row:
                    found[sentence] = torch.frombuffer(bytearray(row[0]), dtype=torch.float32)
        return found

    def _write(self, fresh: dict[str, Tensor]) -> None:
        rows = [(self.key, _plain(s), v.numpy().tobytes()) for s, v in fresh.items()]
        with self._open() as store:
            if store:
                store.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)
                store.commit()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """The store, or None; whatever goes wrong with it inside the block ends only the block."""
        with contextlib.ExitStack() as stack:
            store = self._connect()
            if store is not None:
                stack.enter_context(contextlib.closing(store))
            stack.enter_context(contextlib.suppress(sqlite3.Error, OSError))
            yield store

    def _connect(self) -> sqlite3.Connection | None:
        if self.file is None:
            return None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self.file.is_file() and self.file.stat().st_size > LARGEST:
                self.file.unlink()
            store = sqlite3.connect(self.file, timeout=1.0)
        except (sqlite3.Error, OSError):
            return None
        try:
            store.execute(
                "CREATE TABLE IF NOT EXISTS texts "
                "(key TEXT, sentence TEXT, vector BLOB, PRIMARY KEY (key, sentence))"
            )
        except sqlite3.Error:
            store.close()
            return None
        return store


def _plain(sentence: str) -> str:
    """SQLite stores UTF-8, which lone surrogates are not."""
    return sentence.encode("utf-8", "backslashreplace").decode()
