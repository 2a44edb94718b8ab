"""`scalecli bench-neuron`: run, tune, plot, ladders."""

from __future__ import annotations

import shlex
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scalecli.bench.config import BenchConfig, RungConfig, check, with_preset
from scalecli.bench.ladder import Ladder, Rung
from scalecli.bench.plan import RunConfig, part
from scalecli.bench.tune import Space, Trial, TuneConfig
from scalecli.cli.default_group import DefaultGroup, default_app
from scalecli.cli.options import RunFlags, command
from scalecli.core.config import about, flag_of, from_mapping, to_dict
from scalecli.core.errors import ScalecliError
from scalecli.core.results import Results, cell_key, load_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalecli.bench.analysis import Row
    from scalecli.bench.launch import Outcome
    from scalecli.bench.records import Answer
    from scalecli.bench.routes.base import Route
    from scalecli.cli.run import Run
    from scalecli.core.table import Table

KIND, TUNE_KIND = "bench-neuron run", "bench-neuron tune"
RESAMPLING_SEED = 0


class BenchGroup(DefaultGroup):
    """`scalecli bench-neuron` alone runs the baseline and the given setting."""

    default = "run"


app = default_app(
    BenchGroup,
    "Which settings make ViT training fast here, and by how much. Default command: run.",
)


@command(app, "run", RunConfig)
def run(config: RunConfig, flags: RunFlags) -> None:
    """Measure the given setting against the baseline, or every rung of a --ladder."""
    from scalecli.bench.compare import check_alike
    from scalecli.bench.plan import plan
    from scalecli.cli.run import open_run
    from scalecli.core.results import jsonable

    route, bench, detail = _settle(config)
    ladder = plan(config, route, bench.device)
    for rung in ladder.rungs:
        if config.ladder is None or route.unsupported(rung.config, bench.device) is None:
            check(bench, rung.config)
    settled = replace(config, **{f.name: getattr(bench, f.name) for f in fields(BenchConfig)})
    old = None
    if config.compare is not None:
        old = _load(config.compare, KIND)
        check_alike(old.config, to_dict(settled), where=str(config.compare))
    flops = _flops(bench)
    with open_run(KIND, to_dict(settled), flags, route.packages) as run:
        _note_choice(run, config, bench, detail)
        rows = _measure(run, ladder, route, bench, flops)
        if config.find_batch:
            rows = _find_batches(run, rows, ladder, route, bench)
        summary = _summary(ladder, route, bench, rows, flops=flops, detail=detail)
        compared = [] if old is None else _compared(rows, old.rows)
        summary["comparison"] = [jsonable(c) for c in compared]
        _finish(run, rows, summary)
    if config.fail_above is not None:
        slow = [c for c in compared if c.slowdown_percent > config.fail_above]
        if slow:
            names = ", ".join(f"{c.rung} by {c.slowdown_percent:.1f} %" for c in slow)
            raise ScalecliError(f"slower than {config.compare} beyond noise: {names}")


@command(app, "tune", TuneConfig)
def tune(config: TuneConfig, flags: RunFlags) -> None:
    """Search the best setting within a time budget; measure the winner again for its interval."""
    from scalecli.bench import tune as tuning
    from scalecli.bench.plan import describe
    from scalecli.bench.plan import flags as words_of
    from scalecli.cli.run import open_run
    from scalecli.core.results import jsonable

    started = time.monotonic()
    route, bench, detail = _settle(config)
    space = tuning.supported(config.wanted_space, route, bench)
    flops = _flops(bench)
    settled = replace(config, **{f.name: getattr(bench, f.name) for f in fields(BenchConfig)})
    with open_run(TUNE_KIND, to_dict(settled), flags, route.packages) as run:
        _note_choice(run, config, bench, detail)
        stop = tuning.deadline(config)
        # A trial that would take the whole budget cannot win.
        single = replace(bench, repeats=1, timeout=min(bench.timeout, config.budget_s))
        trials, each = _search(run, space, route, single, stop)
        best = tuning.finalists(trials)
        if not best:
            last = trials[-1].answer.reason if trials else "--budget was too short for one trial"
            raise ScalecliError(f"no setting worked; the last said: {last}")
        named = {describe(rung): rung for rung in (RungConfig(), *best)}
        rungs = tuple(Rung(name, config=rung) for name, rung in named.items())
        ladder = Ladder("tune", "Best settings found", rungs)
        left = config.budget_s - (time.monotonic() - started)
        repeats = tuning.affordable_repeats(left, each, len(rungs), bench.repeats)
        rows = _measure(run, ladder, route, replace(bench, repeats=repeats), flops)
        summary = _summary(ladder, route, bench, rows, flops=flops, detail=detail)
        summary |= {"trials": [jsonable(trial) for trial in trials], "repeats": repeats}
        winner = max(rows, key=lambda row: (row.status == "ok", row.samples_per_s or 0.0))
        if winner.status == "ok":
            words = [*words_of(named[winner.rung]), *_bench_words(config)]
            again = shlex.join(["scalecli", "bench-neuron", *words])
            took = time.monotonic() - started
            summary |= {"winner": winner.rung, "winner_command": again}
            doubt = "" if winner.significant else ", not shown to be faster than the baseline"
            summary["notes"] += [
                f"winner: {winner.rung}, of {len(trials)} trials in {took:.0f} s{doubt}.",
                f"run it: {again}",
            ]
        _finish(run, rows, summary)


def _search(
    run: Run, space: Space, route: Route, bench: BenchConfig, stop: Callable[[], bool]
) -> tuple[list[Trial], float]:
    """All trials, those of an interrupted search included, and the seconds one takes."""
    from scalecli.bench import tune as tuning
    from scalecli.bench.launch import run_one
    from scalecli.bench.plan import describe

    prefix = cell_key("bench-neuron trial", _cell(bench))
    trials = [
        from_mapping(tuning.Trial, rows[0])
        for key, rows in run.log.done.items()
        if key.startswith(prefix)
    ]
    spent = []

    def measure(rung: RungConfig) -> Answer:
        begun = time.monotonic()
        answer = run_one(rung, route, bench)
        spent.append(time.monotonic() - begun)
        return answer

    for trial in tuning.search(space, measure, seed=bench.seed, known=trials[:], stop=stop):
        trials.append(trial)
        run.log.append(f"{prefix}:{len(trials)}", [trial])
        rate = trial.answer.samples_per_s
        found = f"{rate:.1f} samples/s" if rate else trial.answer.reason
        run.note(f"{len(trials):3}  {describe(tuning.to_rung(trial.params))}: {found}")
    return trials, statistics.median(spent) if spent else 0.0


@app.command("plot")
def plot(
    folder: Path = typer.Argument(help="Folder of a finished run.", metavar="DIR"),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    """Print and draw a finished run again, without measuring anything."""
    from scalecli.cli.run import show_again

    results = _load(folder)
    tables, figures = _report(results)
    show_again(folder, results, tables, figures)


@app.command("ladders")
def ladders(debug: bool = typer.Option(False, "--debug", help="Show tracebacks.")) -> None:
    """The shipped ladders and their rungs."""
    from scalecli.bench.ladder import load
    from scalecli.bench.plan import describe
    from scalecli.bench.tables import wrapped_name
    from scalecli.cli.run import show_table
    from scalecli.core.config import configs_dir
    from scalecli.core.table import Column, Table

    for path in sorted((configs_dir() / "bench").glob("*.yaml")):
        ladder = load(path)
        body = [
            [wrapped_name(rung.name, 24), wrapped_name(describe(rung.config), 52)]
            for rung in ladder.rungs
        ]
        columns = [Column("rung", "left"), Column("setting", "left")]
        show_table(Table(f"--ladder {ladder.name}: {ladder.title}", columns, body))


def _settle(config: BenchConfig) -> tuple[Route, BenchConfig, str]:
    """Route, bench with device, model and price settled, and what was detected."""
    from scalecli.bench.peaks import USD_PER_HOUR, instance_type
    from scalecli.bench.routes import choose

    route, device, detail = choose(config.device)
    bench = with_preset(part(BenchConfig, config), device)
    if bench.usd_per_hour is None:
        bench = replace(bench, usd_per_hour=USD_PER_HOUR.get(instance_type() or ""))
    return route, bench, detail


def _flops(bench: BenchConfig) -> float:
    """FLOPs per sample; counting them finds a wrong model before any process starts."""
    from scalecli.bench.flops import train_flops

    return float(train_flops(bench))


def _note_choice(run: Run, config: BenchConfig, bench: BenchConfig, detail: str) -> None:
    if config.device == "auto":
        run.note(f"--device auto: {bench.device} ({detail})")
    if config.preset == "auto" and config.model is None:
        run.note(
            f"--preset auto: {bench.preset} ({bench.model} at {bench.image_size}); "
            "--preset article is the article's ViT-B/16"
        )


def _cell(bench: BenchConfig) -> BenchConfig:
    """What of a bench a single process depends on."""
    return replace(bench, repeats=1, timeout=1.0, usd_per_hour=None)


def _measure(
    run: Run, ladder: Ladder, route: Route, bench: BenchConfig, flops: float
) -> tuple[Row, ...]:
    """Run every rung, keep every answer at once, and analyse them all."""
    import numpy as np

    from scalecli.bench.analysis import analyse
    from scalecli.bench.launch import run_all
    from scalecli.bench.records import Answer

    def key(rung: Rung, repeat: int) -> str:
        return cell_key("bench-neuron", [_cell(bench), rung.config, repeat])

    keys = {(r.name, i): key(r, i) for r in ladder.rungs for i in range(bench.repeats)}
    # What failed is tried again: --resume may come after a repair.
    known = {
        place: answer
        for place, name in keys.items()
        if name in run.log.done
        and (answer := from_mapping(Answer, run.log.done[name][0])).status == "ok"
    }
    if known:
        run.note(f"{len(known)} of {len(keys)} processes are on disk already")
    caches = run.folder / ".compiled"
    outcomes: list[Outcome] = []
    with run.progress("measuring", len(keys)) as bar:
        for found in run_all(ladder.rungs, route, bench, known=known, caches=caches):
            outcomes.append(found)
            place = (found.rung, found.repeat)
            if place not in known and found.answer.status in ("ok", "failed"):
                run.log.append(keys[place], [found.answer])
            bar.advance(found.rung)
    shutil.rmtree(caches, ignore_errors=True)
    return analyse(
        ladder,
        outcomes,
        flops_per_sample=flops,
        usd_per_hour=bench.usd_per_hour,
        rng=np.random.default_rng(RESAMPLING_SEED),
    )


def _find_batches(
    run: Run, rows: tuple[Row, ...], ladder: Ladder, route: Route, bench: BenchConfig
) -> tuple[Row, ...]:
    """The largest batch that fits, for rungs that ran out of memory."""
    from scalecli.bench.fit import largest_batch
    from scalecli.bench.launch import OUT_OF_MEMORY, run_one

    settings = {rung.name: rung.config for rung in ladder.rungs}
    looked = []
    for row in rows:
        largest = row.largest_batch
        if row.status == "failed" and OUT_OF_MEMORY in row.reason:
            rung = settings[row.rung]
            once = replace(bench, steps=rung.batches_per_execution, seconds=None)

            def fits(size: int, rung: RungConfig = rung, once: BenchConfig = once) -> bool:
                answer = run_one(replace(rung, batch_size=size), route, once)
                run.note(f"batch {size}: {answer.reason[:60] or 'fits'}")
                return answer.status == "ok"

            largest = largest_batch(rung.batch_size, fits) or 0
        looked.append(replace(row, largest_batch=largest))
    return tuple(looked)


def _compared(rows: tuple[Row, ...], old: tuple[Row, ...]) -> list[Any]:
    import numpy as np

    from scalecli.bench.compare import compare

    return list(compare(rows, old, rng=np.random.default_rng(RESAMPLING_SEED)))


def _summary(
    ladder: Ladder,
    route: Route,
    bench: BenchConfig,
    rows: tuple[Row, ...],
    *,
    flops: float,
    detail: str,
) -> dict[str, Any]:
    from scalecli.bench.launch import QUICK_COMPILE
    from scalecli.bench.peaks import PRICES_AS_OF

    names = [r["device_name"] for row in rows for r in row.repeats if r.get("device_name")]
    notes = []
    if any(
        set(QUICK_COMPILE.items()) <= set(r["environment"].items())
        for row in rows
        for r in row.repeats
    ):
        notes.append("The tiny preset compiles on XLA's CPU at its lowest optimisation level.")
    return {
        "title": ladder.title,
        "route": route.name,
        "device": names[0] if names else detail,
        "flops_per_sample": flops,
        "usd_per_hour": bench.usd_per_hour,
        "price": f" (list price of {PRICES_AS_OF}, or as given)",
        "notes": notes,
    }


def _finish(run: Run, rows: tuple[Row, ...], summary: dict[str, Any]) -> None:
    results = run.results(rows, summary)
    tables, figures = _report(results)
    run.show(*tables)
    for name, figure in figures.items():
        run.picture(name, figure)
    run.close_with(results)


def _report(results: Results[Row]) -> tuple[list[Table], dict[str, Figure]]:
    """Every table and picture of a run, as a function of its saved results only."""
    from scalecli.bench import pictures, tables

    return (
        tables.tables(results.rows, results.config, results.summary),
        pictures.figures(results.rows, str(results.summary.get("title", ""))),
    )


def _load(path: Path, kind: str | None = None) -> Results[Row]:
    """A finished run, of either kind unless one is named."""
    from scalecli.bench.analysis import Row
    from scalecli.core.errors import UsageError

    try:
        return load_results(path, Row, kind=kind or KIND)
    except UsageError:
        if kind is not None:
            raise
    return load_results(path, Row, kind=TUNE_KIND)


def _bench_words(config: TuneConfig) -> list[str]:
    """The flags of a search that a run of its winner needs as well."""
    words: list[str] = []
    for field in fields(BenchConfig):
        value = getattr(config, field.name)
        if value != field.default and about(field).cli:
            words += [flag_of(field), str(value)]
    return words
