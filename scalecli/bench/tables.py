"""Tables of at most 80 columns; pure functions of saved rows."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scalecli.bench.analysis import Row
from scalecli.bench.compare import Comparison
from scalecli.core.table import Column, Table

PATH = 60
"""Characters of a path in a title."""
NAME = 21
"""Columns of a rung's name before it goes on in the next line."""
ARTICLE = "article: ViT-B/16 at 224 on inf2.xlarge, two NeuronCores (Rand, October 2024)."
Summary = Mapping[str, Any]


def figure(value: float | None, unit: str = "") -> str:
    """Three to four significant digits, `–` for nothing.

    >>> figure(1093.25), figure(99.04), figure(0.1234), figure(None)
    ('1093', '99.0', '0.123', '–')
    """
    if value is None:
        return "–"
    size = abs(value)
    digits = next((d for bound, d in ((100, 0), (10, 1), (1, 2)) if size >= bound), 3)
    return f"{value:.{digits}f}{unit}"


def share(value: float | None) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{100 * value:.1f} %" if value < 0.1 else f"{value:.0%}"


def tables(rows: Sequence[Row], config: Summary, summary: Summary) -> list[Table]:
    """Everything a run has to say, in the order of interest."""
    shown = [ladder_table(rows, config, summary)]
    if any(row.status == "ok" for row in rows):
        shown += [time_table(rows), cost_table(rows, summary)]
    if found := summary.get("comparison"):
        shown.append(comparison_table([Comparison(**c) for c in found], config))
    return shown


def ladder_table(rows: Sequence[Row], config: Summary, summary: Summary) -> Table:
    """Samples/s and factor of every rung, with what the article found for it."""
    notes: list[str] = []
    body = []
    compared = any(row.article_samples_per_s or row.article_says for row in rows)
    for row in rows:
        marks = ""
        for text in _remarks(row):
            if text not in notes:
                notes.append(text)
            marks += f" [{notes.index(text) + 1}]"
        cells = [wrapped_name(row.rung + marks), _throughput(row), _factor(row)]
        if compared:
            cells += [_article(row.article_samples_per_s), _article(row.article_speedup)]
        body.append(cells)
    columns = [Column("rung", "left"), Column("samples/s"), Column("× base")]
    if compared:
        columns += [Column("article"), Column("its ×")]
    numbered = [f"[{i}] {text}" for i, text in enumerate(notes, 1)]
    return Table(
        str(summary.get("title", "")),
        columns,
        body,
        _wrapped([*_conditions(rows, config, summary, compared), *numbered]),
    )


def _remarks(row: Row) -> list[str]:
    texts = []
    if row.status != "ok":
        texts.append(f"{row.status}: {row.reason}")
    elif row.reason:
        texts.append(row.reason)
    if row.largest_batch is not None:
        found = f"the largest batch that fits is {row.largest_batch}"
        texts.append(found if row.largest_batch else "not even a batch of 1 fits")
    if row.warning:
        texts.append(f"warning: {row.warning}")
    if row.outliers:
        which = ", ".join(str(i + 1) for i in row.outliers)
        texts.append(f"repeat {which} is far from the others (kept)")
    if row.article_says:
        texts.append(f"the article: {row.article_says}")
    if row.footnote:
        texts.append(row.footnote)
    return texts


def _conditions(
    rows: Sequence[Row], config: Summary, summary: Summary, compared: bool
) -> list[str]:
    depth = f", depth {config['depth']}" if config.get("depth") else ""
    repeats = summary.get("repeats", config["repeats"])
    machines = f"{config['nnodes']} machines; " if config.get("nnodes", 1) > 1 else ""
    lines = [
        f"{summary.get('device', '')} ({summary.get('route', '')}); {config['model']} at "
        f"{config['image_size']}{depth}; {config['data']} images; {machines}{repeats} processes "
        "per rung; median and 95 % interval.",
    ]
    if any(row.significant is False for row in rows):
        lines.append("~ not significant: the interval of the factor includes 1.")
    if any(row.status == "ok" and row.samples_per_s_low is None for row in rows):
        lines.append("A single repeat has no interval and proves no difference.")
    lines += [str(note) for note in summary.get("notes", ())]
    return [*lines, ARTICLE] if compared else lines


def time_table(rows: Sequence[Row]) -> Table:
    """Step and compile times, executions, waiting."""
    return _columns(
        "Where the time goes",
        rows,
        {
            "p50 ms": lambda r: figure(r.step_ms),
            "p99 ms": lambda r: figure(r.step_ms_p99),
            "compile s": lambda r: figure(r.compile_s),
            "cached s": lambda r: figure(r.compile_cached_s),
            "graphs": lambda r: _count(r.compilations),
            "runs": lambda r: _count(r.executions),
            "input": lambda r: share(r.input_wait_share),
            "h2d ms": lambda r: figure(r.transfer_ms),
        },
        [
            "p50, p99, h2d (host to device): per step; compile, cached: with an empty and a filled "
            "cache; graphs: compiled; runs: executions timed; input: share of time waiting for "
            "data. Columns without data are left out.",
        ],
    )


def cost_table(rows: Sequence[Row], summary: Summary) -> Table:
    """What a rung makes of the device, and what it costs."""
    notes = []
    if price := summary.get("usd_per_hour"):
        notes.append(f"USD/M: per million samples at {price:g} USD per hour{summary['price']}.")
    if any(row.scaling_efficiency for row in rows):
        notes.append(
            "scaling: samples/s per process over those of the same setting on fewer processes."
        )
    return _columns(
        "What it costs",
        rows,
        {
            "precision": lambda r: wrapped_name(r.precision, 18),
            "TFLOP/s": lambda r: figure(r.tflops),
            "MFU": lambda r: share(r.mfu),
            "peak MB": lambda r: figure(r.peak_memory_mb),
            "USD/M": lambda r: figure(r.usd_per_million),
            "loss": lambda r: figure(r.final_loss),
            "procs": lambda r: str(r.world_size) if r.scaling_efficiency else "–",
            "scaling": lambda r: share(r.scaling_efficiency),
        },
        notes,
    )


def comparison_table(found: Sequence[Comparison], config: Summary) -> Table:
    """Every rung over its earlier self."""
    body = [
        [
            wrapped_name(c.rung, 28),
            f"{figure(c.ratio)}{_interval(c.low, c.high)}",
            wrapped_name(c.verdict + (f": {c.reason}" if c.reason else ""), 28),
        ]
        for c in found
    ]
    columns = [Column("rung", "left"), Column("now / then"), Column("verdict", "left")]
    earlier = str(config["compare"])
    shown = earlier if len(earlier) <= PATH else "…" + earlier[-PATH:]
    return Table(f"Compared with {shown}", columns, body)


def _columns(
    title: str,
    rows: Sequence[Row],
    cells: Mapping[str, Callable[[Row], str]],
    notes: Iterable[str],
) -> Table:
    """A table of the measured rungs, without columns that say nothing."""
    measured = [row for row in rows if row.status == "ok"]
    full = {name: [cell(row) for row in measured] for name, cell in cells.items()}
    kept = {name: column for name, column in full.items() if set(column) - {"–", ""}}
    body = [
        [wrapped_name(row.rung), *(column[i] for column in kept.values())]
        for i, row in enumerate(measured)
    ]
    columns = [Column("rung", "left"), *map(Column, kept)]
    return Table(title, columns, body, _wrapped(notes))


def _throughput(row: Row) -> str:
    if row.samples_per_s is None or row.status != "ok":
        return row.status
    return figure(row.samples_per_s) + _interval(row.samples_per_s_low, row.samples_per_s_high)


def _factor(row: Row) -> str:
    if row.speedup is None or row.status != "ok":
        return "–"
    mark = "~" if row.significant is False else ""
    low, high = row.speedup_low, row.speedup_high
    bounds = "" if low is None or high is None else f" ({low:.2f}–{_bound(high)})"
    return f"{row.speedup:.2f}{bounds}{mark}"


def _bound(high: float) -> str:
    """An upper end; two noisy processes can leave it anywhere."""
    return f"{high:.2f}" if high < 100 else ">99"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({figure(low)}–{figure(high)})"


def _article(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def wrapped_name(text: str, width: int = NAME) -> str:
    """A cell of several lines where the text is too wide."""
    return "\n".join(textwrap.wrap(text, width, break_long_words=True)) or "–"


def _wrapped(notes: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for note in notes:
        hang = "    " if note.startswith("[") else ""
        lines += textwrap.wrap(note, 79, subsequent_indent=hang, break_long_words=False)
    return lines
