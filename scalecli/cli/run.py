"""A run in its folder: lock, row log, progress, tables on stdout, pictures on disk."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalecli.cli.options import RunFlags
from scalecli.core.errors import Interrupted, ScalecliError, Terminated, UsageError
from scalecli.core.results import Results, RowLog, now, picture_metadata, versions
from scalecli.core.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Run:
    """What a command needs while it works; made by :func:`open_run`."""

    folder: Path
    kind: str
    flags: RunFlags
    config: dict[str, Any]
    log: RowLog
    packages: tuple[str, ...] = ()
    started: str = field(default_factory=now)
    files: list[Path] = field(default_factory=list)

    def note(self, text: str) -> None:
        """One line for the user, on stderr."""
        if not self.flags.quiet:
            print(text, file=sys.stderr)

    def picture(self, name: str, figure: Figure) -> None:
        """Save a figure in the run folder with its origin in the metadata."""
        from scalecli.core.figures import save_figure

        origin = picture_metadata(self.flags.command, self.config)
        self.files.append(save_figure(figure, self.folder / name, origin))

    def show(self, *tables: Table) -> None:
        """Print tables on stdout, unless ``--json`` claims it."""
        if not self.flags.json:
            for table in tables:
                show_table(table)

    def results(
        self, rows: Sequence[Any], summary: Mapping[str, Any] | None = None
    ) -> Results[Any]:
        """What this run found, with its command, config, versions and times around it."""
        return Results(
            self.flags.command,
            self.kind,
            self.config,
            tuple(rows),
            dict(summary or {}),
            versions(*self.packages),
            self.started,
            now(),
        )

    def close_with(self, results: Results[Any]) -> None:
        """Write ``results.json``; print it under ``--json``, else name what was written."""
        self.files.append(results.save(self.folder))
        if self.flags.json:
            print(json.dumps(results.to_json(), ensure_ascii=False))
        else:
            names = "  ".join(path.name for path in self.files)
            self.note(f"wrote {self.folder}: {names}")

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Progress]:
        """A progress bar with time left, on stderr, when stderr is a terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True)
        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=self.flags.quiet or not console.is_terminal,
        )
        with bar:
            yield Progress(bar, bar.add_task(label, total=total))


@dataclass
class Progress:
    """A started progress bar."""

    bar: Any
    task: Any

    def advance(self, label: str | None = None) -> None:
        """One more done; ``label`` says what was finished last."""
        self.bar.update(self.task, advance=1, **({"description": label} if label else {}))


@contextmanager
def open_run(
    kind: str,
    config: Mapping[str, Any],
    flags: RunFlags,
    packages: Sequence[str] = (),
    *,
    keep_rows: bool = True,
) -> Iterator[Run]:
    """Claim the output folder for one run.

    Without ``--out`` the first free ``out/<kind>[-2, -3, …]`` is taken, or, to resume, the last
    one that holds a run. The versions of ``packages`` are recorded in its results. Without
    ``keep_rows`` the log's rows stay on disk.

    Raises:
        UsageError: the folder holds another run and neither --resume nor --overwrite was said,
            or another process is writing there now.
        Interrupted: Ctrl-C or SIGTERM; the message says how to continue.
    """
    from filelock import FileLock, Timeout

    folder = flags.out if flags.out is not None else _own_folder(kind, flags.resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be made: {error.strerror}") from error
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"--out {folder}: another run is writing there; choose another") from None
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written: {error.strerror}") from error
    try:
        rows = folder / "rows.jsonl"
        # A log without a row is what a run leaves that failed at once: nothing to protect.
        begun = rows.exists() and rows.stat().st_size > 0
        held = begun or (folder / "results.json").exists()
        if held and flags.overwrite:
            for old in (rows, folder / "results.json"):
                old.unlink(missing_ok=True)
        elif held and not flags.resume:
            raise UsageError(
                f"--out {folder}: holds a run already; --resume continues it, "
                "--overwrite replaces it, or choose another folder"
            )
        log = RowLog(rows, keep_rows=keep_rows)
        try:
            yield Run(folder, kind, flags, dict(config), log, tuple(packages))
        except (KeyboardInterrupt, Terminated) as error:
            raise Interrupted(
                f"interrupted; finished work is in {folder}; continue with: "
                + shlex.join(_continuation(flags, folder)),
                143 if isinstance(error, Terminated) else 130,
            ) from error
        except OSError as error:
            raise ScalecliError(f"{folder}: {error.strerror or error}") from error
        finally:
            log.close()
    finally:
        # The file stays: deleting it could take the lock from a run that waits for it.
        lock.release()


def _own_folder(kind: str, resume: bool) -> Path:
    base = Path("out") / kind.replace(" ", "-")
    last, folder = base, base
    for number in itertools.count(2):
        if not ((folder / "results.json").exists() or (folder / "rows.jsonl").exists()):
            break
        last, folder = folder, base.with_name(f"{base.name}-{number}")
    return last if resume else folder


def _continuation(flags: RunFlags, folder: Path) -> list[str]:
    words = [word for word in flags.command if word not in ("--overwrite", "--resume")]
    return [*words, *(() if flags.out else ("--out", str(folder))), "--resume"]


def show_table(table: Table) -> None:
    """Print a table: rich on a terminal, aligned plain text in a pipe."""
    if not sys.stdout.isatty():
        print(table.plain() + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    console = Console()
    # A table too wide for the terminal wraps its texts; its names and numbers stay whole.
    crowded = max(map(len, table.plain().splitlines()), default=0) > console.width
    for place, column in enumerate(table.columns):
        wraps = crowded and place > 0 and column.align == "left"
        shown.add_column(column.header, justify=column.align, no_wrap=not wraps, overflow="fold")
    for r, row in enumerate(table.rows):
        shown.add_row(
            *(Text(c, style="bold" if (r, i) in table.emphasis else "") for i, c in enumerate(row))
        )
    console.print(shown)
    for note in table.notes:
        console.print(Text(note, style="dim"))


def show_again(
    folder: Path, results: Results[Any], tables: Sequence[Table], figures: Mapping[str, Figure]
) -> None:
    """Print the tables of a finished run and draw its pictures beside its results."""
    from scalecli.core.figures import save_figure

    for table in tables:
        show_table(table)
    folder = folder if folder.is_dir() else folder.parent
    for name, figure in figures.items():
        print(f"wrote {save_figure(figure, folder / name, results.metadata())}", file=sys.stderr)
