"""Results on disk: rows appended as they finish, one typed ``results.json`` at the end.

A run folder holds

- ``rows.jsonl``: one line per finished cell, ``{"key": ..., "rows": [...]}``, flushed at once;
  a torn last line (a killed run) is dropped when the log is opened again;
- ``results.json``: written atomically when all cells are there. Tables and pictures are pure
  functions of it.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from scalecli import __version__
from scalecli.core.config import from_mapping
from scalecli.core.errors import ScalecliError, UsageError
from scalecli.core.files import cannot_write, write_text

SCHEMA = 1
Row = TypeVar("Row")


@dataclass(frozen=True)
class Results(Generic[Row]):
    """One finished run: everything its tables and pictures need.

    ``rows`` are typed records, ``summary`` holds what was computed from all of them together
    (fits, comparisons) as plain JSON data.
    """

    command: tuple[str, ...]
    """The command line that made it."""
    kind: str
    """Which command's schema the rows follow, for example ``spiral sweep``."""
    config: dict[str, Any]
    """The whole resolved config."""
    rows: tuple[Row, ...]
    """One record per measured thing, in the config's order."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Results over all rows."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python, the platform and the packages that matter; git revision if any."""
    started: str = ""
    """UTC time, ISO 8601."""
    finished: str = ""
    """UTC time, ISO 8601."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; NaN and infinities become null."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "command": list(self.command),
            "config": jsonable(self.config),
            "versions": self.versions,
            "started": self.started,
            "finished": self.finished,
            "summary": jsonable(self.summary),
            "rows": [jsonable(row) for row in self.rows],
        }

    def save(self, folder: Path) -> Path:
        """Write ``folder/results.json`` atomically."""
        path = folder / "results.json"
        write_text(path, json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")
        return path

    def metadata(self) -> dict[str, str]:
        """What a picture carries about where it came from (PNG text chunks)."""
        return picture_metadata(self.command, self.config)


def picture_metadata(command: Sequence[str], config: Mapping[str, Any]) -> dict[str, str]:
    """PNG text chunks: the software, the command line and the config that made a picture."""
    import shlex

    return {
        "Software": f"scalecli {__version__}",
        "scalecli:command": shlex.join(command),
        "scalecli:config": json.dumps(config, ensure_ascii=False, default=str),
    }


def load_results(path: Path, row: type[Row], *, kind: str) -> Results[Row]:
    """Read a run folder or a ``results.json``, checking its schema and every row.

    Raises:
        UsageError: there is none, it is damaged, or it belongs to another command.
    """
    file = path
    try:
        file = path / "results.json" if path.is_dir() else path
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{file}: no such file; name the --out folder of a finished run"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: damaged or not JSON ({error}); run the command again") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise UsageError(f"{file}: expected schema {SCHEMA}, found {found!r}")
    if data.get("kind") != kind:
        raise UsageError(f"{file}: made by `scalecli {data.get('kind')}`, not by `scalecli {kind}`")
    try:
        rows = tuple(
            from_mapping(row, item, where=f"{file}: row {i + 1}")
            for i, item in enumerate(data["rows"])
        )
        return Results(
            command=tuple(map(str, data["command"])),
            kind=kind,
            config=dict(data["config"]),
            rows=rows,
            summary=dict(data.get("summary", {})),
            versions=dict(data.get("versions", {})),
            started=str(data.get("started", "")),
            finished=str(data.get("finished", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: damaged: {type(error).__name__} {error}") from error


class RowLog:
    """Append-only log of finished cells; what is in it survives any kill.

    Args:
        path: the ``rows.jsonl``; created when missing.
        keep_rows: hold the rows in memory too; without, :attr:`done` has their keys only, and
            :meth:`entries` reads them again.
    """

    def __init__(self, path: Path, *, keep_rows: bool = True) -> None:
        self.path = path
        self.keep_rows = keep_rows
        self.done: dict[str, list[dict[str, Any]]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._load()
            # Unbuffered: nothing is left that closing the file would try to write again.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(path, error) from error

    def _load(self) -> None:
        if not self.path.exists():
            return
        good = 0
        for key, rows, size in _whole_lines(self.path):
            self.done[key] = rows if self.keep_rows else []
            good += size
        if good < self.path.stat().st_size:
            os.truncate(self.path, good)

    def append(self, key: str, rows: Sequence[object]) -> None:
        """Record a finished cell and hand it to the operating system.

        Raises:
            ScalecliError: the disk is full, or the folder has been moved or deleted.
        """
        plain = [jsonable(row) for row in rows]
        line = json.dumps({"key": key, "rows": plain}, ensure_ascii=False) + "\n"
        try:
            if not (self.path.exists() and os.path.samefile(self.path, self._file.fileno())):
                raise ScalecliError(
                    f"{self.path}: moved or deleted while the run was writing it; "
                    "put the folder back and continue with --resume, or start again"
                )
            self._write(line.encode(errors="backslashreplace"))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.done[key] = plain if self.keep_rows else []

    def _write(self, line: bytes) -> None:
        whole, left = os.fstat(self._file.fileno()).st_size, memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            os.truncate(self._file.fileno(), whole)
            raise

    def entries(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Every finished cell on disk, (key, rows), one at a time."""
        for key, rows, _ in _whole_lines(self.path):
            yield key, rows

    def close(self) -> None:
        """Close the file; the log can be opened again."""
        self._file.close()


def keys_on_disk(path: Path) -> frozenset[str]:
    """Keys of the finished cells in a ``rows.jsonl``, which another process may be writing."""
    return frozenset(key for key, _, _ in _whole_lines(path)) if path.exists() else frozenset()


def _whole_lines(path: Path) -> Iterator[tuple[str, list[dict[str, Any]], int]]:
    """Key, rows and length in bytes of every line before the first torn one."""
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
                key, rows = entry["key"], entry["rows"]
            except (ValueError, KeyError, TypeError, RecursionError):
                return
            if not (isinstance(key, str) and isinstance(rows, list) and line.endswith(b"\n")):
                return
            yield key, rows, len(line)


def cell_key(kind: str, cell: object) -> str:
    """Identity of a piece of work: a hash of everything its result depends on.

    Args:
        kind: the command, with a version when its meaning changes.
        cell: dataclass or JSON data holding the cell's whole config.
    """
    text = json.dumps([kind, jsonable(cell)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def jsonable(value: Any) -> Any:
    """JSON data from dataclasses, numpy scalars, tuples and paths; non-finite becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def now() -> str:
    """The present UTC time, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@functools.cache
def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {
        "scalecli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpus": str(os.cpu_count()),
    }
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    revision = _git_revision()
    return {**found, "git": revision} if revision else found


def versions(*packages: str) -> dict[str, str]:
    """Versions of scalecli, Python, the platform and of the installed ones among ``packages``."""
    return dict(_versions(packages))


def _git_revision() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
