"""`scalecli spiral`: show, fit, sweep, plot, why-k1, models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scalecli.cli.default_group import DefaultGroup, default_app
from scalecli.cli.options import RunFlags, command
from scalecli.core.config import from_mapping, option, section, to_dict
from scalecli.core.errors import UsageError
from scalecli.core.results import Results, jsonable, load_results
from scalecli.spiral.config import ProblemConfig
from scalecli.spiral.sweep import SweepConfig
from scalecli.spiral.whyk1 import WhyK1Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalecli.core.table import Table
    from scalecli.spiral.rows import SweepRow

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "polars", "matplotlib")


class SpiralGroup(DefaultGroup):
    """`scalecli spiral` alone runs the sweep."""

    default = "sweep"


app = default_app(
    SpiralGroup,
    "Priors against data on the spiral, and on your own table. Default command: sweep.",
)


@command(app, "sweep", SweepConfig)
def sweep(config: SweepConfig, flags: RunFlags) -> None:
    """F1 and error against sample size: models × sizes × seeds, laws, theory, pictures."""
    from scalecli.cli.run import open_run
    from scalecli.core.engine import run_tasks
    from scalecli.spiral import panels
    from scalecli.spiral.sweep import in_order, plan
    from scalecli.spiral.sweep import sweep as compute

    cells, notes = plan(config)
    if not cells:
        raise UsageError("nothing to do: every model is left out at these sizes; " + notes[0])
    with open_run("spiral sweep", to_dict(config), flags, PACKAGES) as run:
        for note in notes:
            run.note(note)
        waiting = [cell for cell in cells if cell.key not in run.log.done]
        if len(waiting) < len(cells):
            run.note(f"{len(cells) - len(waiting)} of {len(cells)} cells are on disk already")
        with run.progress("sweep", len(waiting)) as bar:
            for cell, rows in compute(waiting, engine=config):
                run.log.append(cell.key, rows)
                bar.advance(f"{cell.model} N={cell.n:,}")
        rows = in_order(cells, run.log.done)
        for n in sorted({r.n for r in rows if r.region == "all" and r.positives == 0}):
            run.note(f"warning: a sample of N = {n} holds no positive point; its F1 is 0")
        summary: dict[str, Any] = {"notes": notes}
        if config.data is not None and config.target is not None:
            from scalecli.spiral.owndata import load_table

            table = load_table(config.data, config.target, missing=config.missing)
            summary["test_rows"] = len(table.y_N) - table.largest_n
        else:
            problem = config.noisy_problem
            tasks = [
                (problem, m, n, config.seed) for m, n in panels.wanted(config.models, config.sizes)
            ]
            with run.progress("decision regions", len(tasks)) as bar:
                found = {}
                for task, panel in run_tasks(panels.compute, tasks, engine=config):
                    found[task[1:3]] = panel
                    bar.advance()
            summary["panels"] = [jsonable(found[task[1:3]]) for task in tasks]
            summary["theory"] = _theory(config)
        results = run.results(rows, summary)
        tables, figures = _report(results)
        run.show(*tables)
        for name, figure in figures.items():
            run.picture(name, figure)
        run.close_with(results)


def _theory(config: SweepConfig) -> dict[str, list[tuple[int, float]]]:
    """Predicted error per kNN model, where there is a constant for its k and no noise."""
    from scalecli.spiral.problem import Problem

    problem = Problem(config.noisy_problem)
    if problem.config.label_noise:
        return {}
    found = {}
    for model in config.models:
        if model.startswith("knn"):
            points = [(n, problem.knn_theory(int(model[3:]), n, config.eval)) for n in config.sizes]
            if points[0][1] is not None:
                found[model] = [(n, e) for n, e in points if e is not None]
    return found


def _report(results: Results[SweepRow]) -> tuple[list[Table], dict[str, Figure]]:
    """Every table and picture of a sweep, as a function of its saved results only."""
    from scalecli.spiral import charts, laws, panels, pictures, tables
    from scalecli.spiral.problem import Problem

    config = from_mapping(SweepConfig, results.config)
    rows = results.rows
    points = int(results.summary.get("test_rows", config.test_points))
    fits = laws.fit_laws(rows, test_points=points, targets=(_target(config, rows),))
    reference = next((m for m in ("knn1", "knn5") if m in config.models), config.models[0])
    worths = laws.prior_worths(rows, reference=reference, test_points=points)
    theory = results.summary.get("theory") or {}
    shown = [tables.f1_table(rows, results.config), tables.error_table(rows, results.config)]
    drawn = {
        "f1.png": charts.f1_curve(rows, results.config),
        "error.png": charts.error_curve(rows, results.config, theory, fits),
    }
    if config.data is None:
        shown.append(tables.region_table(rows, results.config))
        drawn["tip.png"] = charts.region_curves(rows, results.config)
        problem = config.noisy_problem
        if results.summary.get("panels"):
            drawn["regions.png"] = panels.figure(problem, results.summary["panels"])
        small = [n for n in config.sizes if n >= 1000][:3]
        if small:
            drawn["knn-failure-map.png"] = pictures.failure_map(Problem(problem), small)
    if fits:
        shown.append(tables.law_table(fits))
    if worths:
        shown.append(tables.worth_table(worths, reference=reference))
    return shown, drawn


def _target(config: SweepConfig, rows: Sequence[SweepRow]) -> float:
    """The error to work out N for: what was asked, or what asks something of this problem."""
    if config.target_error is not None:
        return config.target_error
    if config.data is None:
        return 0.01
    from scalecli.spiral import tables

    cells = [
        tables.cell(rows, model, n, value="error")
        for model in tables.models_of(rows)
        for n in tables.sizes_of(rows)
    ]
    best = min((c.value for c in cells if c is not None), default=0.0)
    # Rounded for the header; an error of zero leaves nothing to halve.
    return float(f"{best / 2:.1g}") or 0.01


@app.command("plot")
def plot(
    folder: Path = typer.Argument(help="Folder of a finished sweep.", metavar="DIR"),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    """Print and draw a finished sweep again, without computing anything."""
    from scalecli.cli.run import show_again
    from scalecli.spiral.rows import SweepRow

    results = load_results(folder, SweepRow, kind="spiral sweep")
    try:
        tables, figures = _report(results)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise UsageError(f"{folder}: its results cannot be drawn: {reason}") from error
    show_again(folder, results, tables, figures)


@dataclass(frozen=True)
class ShowConfig:
    """What `scalecli spiral show` draws."""

    n: int = option(1_000, "Points in the sample.", low=1, high=10**6)
    seed: int = option(0, "Seed of the sample.", low=0)
    problem: ProblemConfig = section(ProblemConfig)


@command(app, "show", ShowConfig)
def show(config: ShowConfig, flags: RunFlags) -> None:
    """The article's pictures: manifold, density, labelled sample, zoom on the tip."""
    from scalecli.cli.run import open_run
    from scalecli.core.table import Column, Table
    from scalecli.spiral import pictures
    from scalecli.spiral.problem import Problem

    problem = Problem(config.problem)
    with open_run("spiral show", to_dict(config), flags, PACKAGES) as run:
        run.picture("manifold.png", pictures.manifold_figure(problem))
        run.picture("density.png", pictures.density_figure(problem))
        run.picture("sample.png", pictures.sample_figure(problem, config.n, config.seed))
        boxes = problem.boxes()
        facts = {
            "P(inside)": problem.positive_share,
            "boundary length": problem.manifold.arc_length(),
            "P(tip box)": problem.density.box_mass(boxes["tip"]),
            "P(centre box)": problem.density.box_mass(boxes["centre"]),
            "boundary integral of sqrt(f)": problem.boundary_integrals[0],
        }
        lines = [[name, f"{value:.4g}"] for name, value in facts.items()]
        run.show(Table("The spiral problem", [Column("quantity", "left"), Column("value")], lines))
        run.close_with(run.results((facts,)))


@dataclass(frozen=True)
class FitConfig:
    """What `scalecli spiral fit` trains."""

    model: str = option("mlp-polar", "Model name.", argument=True, metavar="MODEL")
    n: int = option(1_000, "Training points.", low=1, high=10**8)
    seed: int = option(0, "Seed of sample and training.", low=0)
    eval: str = option("density", "Test points.", choices=lambda: ("density", "grid"))
    test_points: int = option(100_000, "Test points.", low=100, high=10**8)
    problem: ProblemConfig = section(ProblemConfig)


@command(app, "fit", FitConfig)
def fit(config: FitConfig, flags: RunFlags) -> None:
    """One model: decision regions over its sample, F1, and errors by region."""
    from scalecli.cli.run import open_run
    from scalecli.core.table import Column, Table, number
    from scalecli.spiral import panels
    from scalecli.spiral.sweep import plan, run_cell

    grid = SweepConfig(
        sizes=(config.n,), models=(config.model,), seeds=1, seed=config.seed,
        eval="grid" if config.eval == "grid" else "density",
        test_points=config.test_points, problem=config.problem,
    )  # fmt: skip
    cells, notes = plan(grid)
    if not cells:
        raise UsageError(f"--n {config.n}: " + notes[0])
    with open_run("spiral fit", to_dict(config), flags, PACKAGES) as run:
        rows = run_cell(cells[0])
        panel = panels.compute((config.problem, config.model, config.n, config.seed))
        if rows[0].positives == 0:
            run.note("warning: the sample holds no positive point")
        lines = [[r.region, number(r.f1), number(r.error, 4)] for r in rows]
        run.show(
            Table(
                f"{config.model} at N = {config.n:,} ({config.eval} test points)",
                [Column("region", "left"), Column("F1"), Column("error")],
                lines,
                (f"fit {rows[0].fit_seconds:.2f} s, predict {rows[0].predict_seconds:.2f} s",),
            )
        )
        summary = {"panels": [jsonable(panel)]}
        run.picture("regions.png", panels.figure(config.problem, summary["panels"]))
        run.close_with(run.results(rows, summary))


@command(app, "why-k1", WhyK1Config)
def why_k1(config: WhyK1Config, flags: RunFlags) -> None:
    """The article's challenge: why k=1 beats k=5 here, and how label noise reverses it."""
    import numpy as np

    from scalecli.cli.run import open_run
    from scalecli.spiral import pictures, whyk1

    with open_run("spiral why-k1", to_dict(config), flags, PACKAGES) as run:
        with run.progress("kNN", len(config.noises) * len(config.sizes) * config.seeds) as bar:
            rows = whyk1.measure(config, bar.advance)
        recall = whyk1.strip_recall(
            config.neighbours, (0.25, 0.5, 1.0, 2.0, 3.0, 4.0), rng=np.random.default_rng(0)
        )
        run.show(*whyk1.tables(rows, recall))
        data: list[Mapping[str, Any]] = [jsonable(row) for row in rows]
        run.picture("why-k1.png", pictures.why_k1_figure(data, recall))
        run.close_with(run.results(rows, {"strip": recall}))


@app.command("models")
def models(debug: bool = typer.Option(False, "--debug", help="Show tracebacks.")) -> None:
    """The model table: name, what prior each brings, largest sensible N."""
    from scalecli.cli.run import show_table
    from scalecli.core.table import Column, Table, count
    from scalecli.spiral.models import names, resolve

    specs = [resolve(name) for name in names()]
    lines = [[s.name, s.about, count(s.max_n), "" if s.plane_only else "yes"] for s in specs]
    columns = [
        Column("model", "left"),
        Column("prior", "left"),
        Column("max N"),
        Column("own data"),
    ]
    show_table(Table("Models (knnK works for any K)", columns, lines))
