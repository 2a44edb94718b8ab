"""`scalecli localize-eval`: run, plot, protocols."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scalecli.cli.default_group import DefaultGroup, default_app
from scalecli.cli.options import RunFlags, command
from scalecli.core.config import to_dict
from scalecli.core.results import Results, jsonable, load_results
from scalecli.localize.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalecli.cli.run import Run
    from scalecli.core.table import Table
    from scalecli.localize.evaluation.rows import EvalRow
    from scalecli.localize.evaluation.runner import Evaluator
    from scalecli.localize.evaluation.speed import Cost
    from scalecli.localize.evaluation.summary import Summary

KIND = "localize-eval"
PACKAGES = ("torch", "open_clip_torch", "timm", "numpy", "pillow")


class EvalGroup(DefaultGroup):
    """`scalecli localize-eval` alone evaluates."""

    default = "run"


app = default_app(
    EvalGroup,
    "How well localization methods find things, by the literature's protocols. "
    "Default command: run.",
)


@command(app, "run", EvalConfig)
def run(config: EvalConfig, flags: RunFlags) -> None:
    """Methods × models over a dataset: mIoU, points, pointing, opposite maps, speed."""
    from scalecli.cli.run import open_run
    from scalecli.localize.evaluation import runner
    from scalecli.localize.evaluation.contenders import contenders, open_problem
    from scalecli.localize.evaluation.summary import summarise

    problem = open_problem(config)
    with open_run(KIND, to_dict(config), flags, PACKAGES, keep_rows=False) as work:
        models, notes = contenders(config, problem)
        for note in notes:
            work.note(note)
        evaluator = runner.Evaluator(config, problem, models)
        tasks = list(runner.missing(evaluator, work.log.done))
        total = len(problem.dataset.items)
        if len(tasks) < total:
            work.note(f"{total - len(tasks)} of {total} images are on disk already")
        costs = _measure(evaluator, work)
        with work.progress("evaluate", len(tasks)) as bar:
            expected = len(tasks) * sum(cost.seconds for cost in costs.values())
            for rows in runner.evaluate(evaluator, tasks, expected=expected):
                for key, row in rows:
                    work.log.append(key, [row])
                bar.advance(rows[0][1].image if rows else None)
        summary = summarise(evaluator, work.log.entries(), costs)
        results = work.results(summary.rows, _facts(evaluator, summary))
        tables, figures = _report(results)
        work.show(*tables)
        for name, figure in figures.items():
            work.picture(name, figure)
        if config.examples:
            from scalecli.localize.evaluation.sheet import contact_sheet

            work.picture("examples.png", contact_sheet(evaluator, summary))
        work.close_with(results)


def _measure(evaluator: Evaluator, work: Run) -> dict[tuple[int, str], Cost]:
    """Cost of every method on the first image; from the log where it was measured before."""
    from scalecli.core.results import cell_key
    from scalecli.localize.evaluation.speed import Cost, measure

    known: dict[str, list[dict[str, Any]]] = {}
    wanted = {cell_key("cost", key): way for key, way in evaluator.keys(0).items()}
    if any(key in work.log.done for key in wanted):
        known = {key: rows for key, rows in work.log.entries() if key in wanted}
    sample = evaluator.problem.dataset.items[0].read()
    found = {}
    with work.progress("measure speed", len(wanted)) as bar:
        for key, (number, variant) in wanted.items():
            if key in known:
                cost = Cost(**known[key][0])
            else:
                contender = evaluator.models[number]
                views = evaluator.views(contender, sample)
                cost = measure(contender, variant, views, evaluator.config.batch)
                work.log.append(key, [cost])
            found[number, variant.label] = cost
            bar.advance(variant.label)
    return found


def _facts(evaluator: Evaluator, summary: Summary) -> dict[str, Any]:
    """What tables and pictures need beside the rows."""
    from scalecli.localize.evaluation.summary import spread

    config, problem = evaluator.config, evaluator.problem
    return {
        "dataset": problem.dataset.name,
        "protocol": config.protocol_name,
        "protocol_keys": jsonable(problem.protocol),
        "classes": list(problem.vocabulary.classes),
        "baselines": _baselines(evaluator),
        "best_method": summary.rows[0].method,
        "best_model": summary.rows[0].model,
        "confusion": summary.confusion,
        "examples": spread(evaluator, summary),
    }


def _baselines(evaluator: Evaluator) -> list[str]:
    """The methods that gains are measured from, one per model, each named once."""
    found = [
        evaluator.config.baseline_of([variant.label for variant in contender.variants])
        for contender in evaluator.models
    ]
    return [name for name in dict.fromkeys(found) if name is not None]


def _report(results: Results[EvalRow]) -> tuple[list[Table], dict[str, Figure]]:
    """Every table and picture, the contact sheet aside, as a function of the saved results."""
    from scalecli.localize.evaluation import charts, tables

    rows, summary = results.rows, results.summary
    return tables.tables(rows, summary), {
        "quality-speed.png": charts.quality_speed(rows, summary),
        "classes.png": charts.per_class(rows, summary),
    }


@app.command("plot")
def plot(
    folder: Path = typer.Argument(help="Folder of a finished evaluation.", metavar="DIR"),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    """Print and draw a finished evaluation again, without computing anything."""
    from scalecli.cli.run import show_again
    from scalecli.localize.evaluation.rows import EvalRow

    results = load_results(folder, EvalRow, kind=KIND)
    tables, figures = _report(results)
    show_again(folder, results, tables, figures)


@app.command("protocols")
def protocols(debug: bool = typer.Option(False, "--debug", help="Show tracebacks.")) -> None:
    """The shipped protocols: name and what each is."""
    from scalecli.cli.run import show_table
    from scalecli.core.table import Column, Table
    from scalecli.localize.evaluation.protocol import load_protocol, names

    lines = [[name, load_protocol(name).about] for name in names()]
    show_table(Table("Protocols", [Column("name", "left"), Column("what it is", "left")], lines))
