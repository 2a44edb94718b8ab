"""Tables and pictures of rows of every kind: nothing is left out, nothing is too wide."""

from typing import Any

import pytest

from scalecli.bench.analysis import Row
from scalecli.bench.compare import Comparison
from scalecli.bench.pictures import figures, log_ticks
from scalecli.bench.tables import figure, share, tables
from scalecli.core.results import jsonable

CONFIG = {
    "model": "vit_base_patch16_224",
    "image_size": 224,
    "depth": None,
    "data": "random",
    "repeats": 3,
    "compare": "old/results.json",
}


def measured(name: str, rate: float, **more: Any) -> Row:
    run = {
        "status": "ok",
        "samples_per_s": rate,
        "step_ms": [900.0, 1100.0],
        "warmup": [
            {"steps": 9, "ms": 30000.0, "compilations": 2},
            {"steps": 10, "ms": 1000.0, "compilations": 0},
        ],
    }
    return Row(
        name, "ok", "", {"batches_per_execution": 10},
        samples_per_s=rate, samples_per_s_low=0.98 * rate, samples_per_s_high=1.01 * rate,
        step_ms=1000.0, repeats=(run,), **more,
    )  # fmt: skip


ROWS = (
    measured("baseline", 250.0, speedup=1.0, article_samples_per_s=251.98, article_speedup=1.0),
    measured(
        "batches per execution of a very long name", 1000.25, after="baseline",
        speedup=4.0, speedup_low=3.9, speedup_high=4.1, significant=True,
        article_samples_per_s=1027.39, article_speedup=4.08, footnote="not comparable " * 9,
        mfu=0.61, warning="61% MFU", usd_per_million=0.9, scaling_efficiency=0.87, world_size=2,
        outliers=(2,), compile_s=130.0, compile_cached_s=3.0,
    ),
    measured("slower", 200.0, after="baseline", speedup=0.8, speedup_low=0.5, speedup_high=1.2,
             significant=False),
    Row("foreign", "unsupported", "not applicable", {}, article_says="not yet supported"),
    Row("large", "failed", "out of memory: x", {}, largest_batch=12),
)  # fmt: skip
SUMMARY = {
    "title": "The ladder",
    "route": "xla",
    "device": "Inferentia2",
    "usd_per_hour": 0.7582,
    "price": " (list price)",
    "notes": ["A note."],
    "comparison": [
        jsonable(Comparison("baseline", "slower", "", 0.8, 0.7, 0.9)),
        jsonable(Comparison("foreign", "not comparable", "unsupported now: not applicable")),
    ],
}


def test_tables_fit_80_columns_and_say_everything() -> None:
    text = "\n".join(table.plain() for table in tables(ROWS, CONFIG, SUMMARY))
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "1000 (980–1010)", "4.00 (3.90–4.10)", "0.80 (0.50–1.20)~", "1027.39", "unsupported",
        "[1] warning: 61% MFU", "repeat 3 is far", "the largest batch that fits is 12", "87%",
        "article: not yet supported", "0.7582 USD per hour", "130", "0.80", "slower",
    ):  # fmt: skip
        assert words in text, words


def test_a_run_that_measured_nothing_has_a_table_and_no_picture() -> None:
    failed = ROWS[3:]
    (table,) = tables(failed, CONFIG, {**SUMMARY, "comparison": []})
    assert "out of memory" in table.plain()
    assert figures(failed, "x") == {}


def test_pictures_show_every_rung_and_every_compilation() -> None:
    drawn = figures(ROWS, "The ladder")
    assert list(drawn) == ["ladder.png", "waterfall.png", "trace.png"]
    (ladder,) = drawn["ladder.png"].axes
    assert len(ladder.get_yticks()) == len(ROWS)
    texts = [t.get_text() for t in ladder.texts]
    assert {"250", "1000", "unsupported", "failed", "1027"} <= set(texts)
    (waterfall,) = drawn["waterfall.png"].axes
    assert [t.get_text() for t in waterfall.texts] == ["×1", "×4.00", "×0.80"]
    panels = drawn["trace.png"].axes
    assert len(panels) == 3
    assert [t.get_text() for t in panels[0].texts] == ["2"]


@pytest.mark.parametrize("low", [0.03, 1.0, 9.0, 70.0])
@pytest.mark.parametrize("factor", [1.68, 3, 100, 1e6])
def test_a_logarithmic_axis_has_few_ticks_but_some(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert 1 <= len(ticks) <= 4
    assert all(low <= tick <= low * factor for tick in ticks)


def test_figures() -> None:
    assert [figure(v) for v in (1093.25, 99.04, 5.678, 0.1234, None)] == [
        "1093", "99.0", "5.68", "0.123", "–",
    ]  # fmt: skip
    assert [share(v) for v in (0.87, 0.053, None)] == ["87%", "5.3 %", "–"]
