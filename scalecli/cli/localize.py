"""`scalecli localize`: map (the default), plot, methods, and training the shapes model."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from scalecli.cli.default_group import DefaultGroup, default_app
from scalecli.cli.options import RunFlags, command
from scalecli.cli.shapes import register as register_train_shapes
from scalecli.core.config import from_mapping, to_dict
from scalecli.core.errors import ScalecliError, UsageError, did_you_mean
from scalecli.core.results import load_results, picture_metadata
from scalecli.localize.config import LocalizeConfig

if TYPE_CHECKING:
    from scalecli.cli.run import Run
    from scalecli.localize.job import Outcome, Worker
    from scalecli.localize.localizer import Item
    from scalecli.localize.prompts import Request
    from scalecli.localize.rows import LocalizeRow

KIND = "localize"
PACKAGES = ("torch", "open_clip_torch", "timm", "pillow", "numpy")
INLINE_ROWS = 5_000
"""Up to this many rows are in results.json; more stay in rows.jsonl, which it then names."""
LISTED_ERRORS = 1_000
"""Bad files listed in results.json; all are counted."""
NAMED_ROWS = 4
"""Rows whose files the closing line names."""
NAMED_WORDS = 50
"""Words of the command line that pictures carry."""
SHEET_PICTURES = 12
"""Pictures on the contact sheet of a folder; every picture has its own beside its maps."""


class LocalizeGroup(DefaultGroup):
    """`scalecli localize photo.jpg dog` is `scalecli localize map photo.jpg dog`."""

    default = "map"
    words = True


app = default_app(
    LocalizeGroup,
    "Where does a vision encoder see a word? scalecli localize photo.jpg dog. "
    "Default command: map.",
)


@command(app, "map", LocalizeConfig)
def map_(config: LocalizeConfig, flags: RunFlags) -> None:
    """Heatmaps of prompts in pictures: scalecli localize photo.jpg dog "a red car"."""
    from scalecli.localize.prompts import gather

    if len(config.words) == 1 and not config.images:
        _refuse_mistyped(config.words[0])
    request = gather(
        config.words,
        images=config.images,
        prompts=config.prompts,
        prompts_file=config.prompts_file,
    )
    if config.mask_file is not None and len(request.images) > 1:
        raise UsageError(
            f"--mask-file {config.mask_file}: is of one picture; {len(request.images)} are given"
        )
    _run(config, request, flags)


def _refuse_mistyped(word: str) -> None:
    """A single word that is no file is perhaps a command."""
    known = [info.name for info in app.registered_commands if info.name]
    close = difflib.get_close_matches(word, known, n=1)
    if close and not Path(word).exists():
        raise UsageError(
            f"'{word}' is neither a file here nor a command; {did_you_mean(word, known)}"
        )


def _run(config: LocalizeConfig, request: Request, flags: RunFlags) -> None:
    from scalecli.cli.run import open_run
    from scalecli.localize.drawing import Painter
    from scalecli.localize.job import Worker, items_of
    from scalecli.localize.load import load_encoder
    from scalecli.localize.localizer import Localizer

    encoder = load_encoder(config)
    localizer = Localizer(config, encoder, request.prompts)
    with open_run(KIND, to_dict(config), flags, PACKAGES, keep_rows=False) as run:
        for note in (*encoder.notes, *request.notes, *localizer.notes):
            run.note(note)
        origin = _origin(flags.command, config)
        painter = Painter(
            config, request.prompts, model=encoder.name, out=run.folder, origin=origin
        )
        items = items_of(request.images)
        keys, errors = _work(run, Worker(localizer, painter), config, items)
        summary: dict[str, Any] = {
            "model": encoder.name,
            "about": encoder.about,
            "weights": encoder.fingerprint,
            "prompts": request.prompts,
            "methods": localizer.methods,
            "pictures": len(keys),
            "errors": errors[:LISTED_ERRORS],
            "error_count": len(errors),
        }
        if len(items) > 1 and config.compare:
            _sheet(run, [item.folder for item in items], origin)
        _finish(run, config, keys, summary)
    if errors:
        first = f"{errors[0]['image']}: {errors[0]['error']}"
        many = f"{len(errors)} of {len(items)} pictures could not be used (the rest is done): "
        raise ScalecliError(first if len(items) == 1 else many + first)


def _finish(
    run: Run, config: LocalizeConfig, keys: dict[str, int], summary: dict[str, Any]
) -> None:
    """Table and results.json, in one pass over the rows on disk."""
    from scalecli.localize.tables import Summing

    prompts, methods = len(summary["prompts"]), len(summary["methods"])
    few = len(keys) * prompts * methods <= INLINE_ROWS
    summing, rows = Summing(), []
    for row in _rows(run, keys, ordered=few):
        summing.add(row)
        if few:
            rows.append(row)
    summary |= {"row_count": summing.count, "means": list(summing.means.values())}
    if not few:
        summary["rows_file"] = run.log.path.name
    run.show(*summing.tables(model=summary["model"], threshold=config.threshold))
    if len(keys) == 1:
        made = [name for row in summing.first[:NAMED_ROWS] for name in row.files]
        made += ["contact.png"] if config.compare else []
        run.files += [run.folder / name for name in dict.fromkeys(made)]
    run.close_with(run.results(rows, summary))
    if len(keys) > 1:
        run.note(f"{len(keys):,} pictures, each with a folder there")


def _work(
    run: Run, worker: Worker, config: LocalizeConfig, items: Sequence[Item]
) -> tuple[dict[str, int], list[dict[str, str]]]:
    """All pictures; the keys of the usable ones with their places, and the others' errors."""
    import warnings

    from scalecli.localize.job import Done
    from scalecli.localize.localizer import Broken

    keys: dict[str, int] = {}
    errors: list[tuple[int, dict[str, str]]] = []
    skipped = 0
    localizer, alone = worker.localizer, len(items) == 1
    steps = len(localizer.methods) if alone else len(items)
    with warnings.catch_warnings(), run.progress("localize", steps) as bar:
        if alone:  # then it is the methods that take their time
            localizer.finished = bar.advance
        # Pillow warns of odd metadata in files that it decodes well.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        meter = _Meter()
        for place, outcome in _outcomes(run, worker, config, items):
            if isinstance(outcome, Broken):
                errors.append((place, {"image": outcome.item.name, "error": outcome.error}))
                if len(items) > 1:
                    run.note(f"skipped {outcome.item.name}: {outcome.error}")
            else:
                keys[outcome.key] = place
                if isinstance(outcome, Done):
                    run.log.append(outcome.key, outcome.rows)
                else:
                    skipped += 1
            if not alone:
                bar.advance(meter.label(len(errors)))
    if skipped:
        run.note(f"{skipped:,} of {len(items):,} pictures are on disk already")
    return keys, [error for _, error in sorted(errors, key=itemgetter(0))]


def _outcomes(
    run: Run, worker: Worker, config: LocalizeConfig, items: Sequence[Item]
) -> Iterator[tuple[int, Outcome]]:
    """Every picture's place and outcome, from threads here or from the engine's workers."""
    if len(items) == 1 or (config.engine == "local" and config.workers == 0):
        from scalecli.localize.job import stream

        done = frozenset(run.log.done)
        return enumerate(
            stream(worker, items, done=done, threads=config.threads, batch=config.batch)
        )
    from scalecli.localize.spread import spread

    return spread(config, worker, items, log=run.log.path)


class _Meter:
    """Pictures per second since the start."""

    def __init__(self) -> None:
        import time

        self.clock = time.perf_counter
        self.start = self.clock()
        self.count = 0

    def label(self, errors: int) -> str:
        """What the progress bar says."""
        self.count += 1
        rate = self.count / max(self.clock() - self.start, 1e-9)
        return f"{rate:.1f} images/s" + (f", {errors} errors" if errors else "")


def _rows(run: Run, keys: dict[str, int], *, ordered: bool) -> Iterator[LocalizeRow]:
    """This request's rows from disk; ``ordered`` holds them all to bring them into its order."""
    from scalecli.localize.rows import LocalizeRow

    entries = ((keys[key], rows) for key, rows in run.log.entries() if key in keys)
    for _, rows in sorted(entries, key=itemgetter(0)) if ordered else entries:
        for row in rows:
            yield from_mapping(LocalizeRow, row, where=str(run.log.path))


def _sheet(run: Run, folders: Sequence[str], origin: Mapping[str, str]) -> None:
    """contact.png of the first pictures, from those beside their maps."""
    from PIL import Image

    from scalecli.core.figures import save_image
    from scalecli.localize.render import stacked

    pages: list[Image.Image] = []
    for folder in folders:
        path = run.folder / folder / "contact.png"
        if len(pages) < SHEET_PICTURES and path.is_file():
            with Image.open(path) as page:
                pages.append(page.convert("RGB"))
    if pages:
        run.files.append(save_image(stacked(pages), run.folder / "contact.png", origin))


def _origin(words: Sequence[str], config: LocalizeConfig) -> dict[str, str]:
    """What every picture says of its making; the paths of a large folder are left out."""
    few = {key: value for key, value in to_dict(config).items() if key not in ("words", "images")}
    return picture_metadata(words[:NAMED_WORDS], few)


@app.command("plot")
def plot(
    folder: Path = typer.Argument(help="Folder of a finished run.", metavar="DIR"),
    cmap: Optional[str] = typer.Option(None, help="Other colours.", metavar="NAME"),  # noqa: UP045
    alpha: Optional[float] = typer.Option(None, help="Another opacity, 0 to 1."),  # noqa: UP045
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    """Print a finished run again; draw it again if it was made with --raw."""
    from scalecli.cli.run import show_table
    from scalecli.localize.redraw import redraw
    from scalecli.localize.rows import LocalizeRow
    from scalecli.localize.tables import Mean, Summing, means_table

    results = load_results(folder, LocalizeRow, kind=KIND)
    given = {key: v for key, v in {"cmap": cmap, "alpha": alpha}.items() if v is not None}
    config = from_mapping(LocalizeConfig, {**results.config, **given}, where="plot")
    base = folder if folder.is_dir() else folder.parent
    model = str(results.summary.get("model"))
    summing = Summing()
    for row in results.rows:
        summing.add(row)
    tables = summing.tables(model=model, threshold=config.threshold)
    if "rows_file" in results.summary:
        means = [from_mapping(Mean, mean, where=str(folder)) for mean in results.summary["means"]]
        tables = [means_table(means, model=model)]
    for table in tables:
        show_table(table)
    if config.raw and results.rows:
        done = list(redraw(config, results.rows, base, results.metadata()))
        typer.echo(f"drew {len(done)} pictures again in {base}", err=True)
    elif given:
        why = "without --raw" if results.rows else "of too many pictures"
        raise UsageError(f"{folder}: was made {why}; there is nothing to draw again")


@app.command("methods")
def methods(debug: bool = typer.Option(False, "--debug", help="Show tracebacks.")) -> None:
    """Every method: which encoders it serves, what it shows, its options."""
    from scalecli.cli.run import show_table
    from scalecli.localize.methods import CNN_METHODS, RESNET_METHODS, TIMM_METHODS, VIT_METHODS
    from scalecli.localize.tables import methods_table

    kinds = {
        "vit": VIT_METHODS, "resnet": RESNET_METHODS, "timm": TIMM_METHODS, "cnn": CNN_METHODS,
    }  # fmt: skip
    show_table(methods_table(kinds))


register_train_shapes(app)
