"""What counts as a difference, and what the figures in a row mean."""

import dataclasses
import json

import numpy as np
import pytest

from scalecli.bench.analysis import Row, analyse, outliers, speedup, usd_per_million
from scalecli.bench.config import BenchConfig, RungConfig, with_preset
from scalecli.bench.flops import train_flops
from scalecli.bench.ladder import Ladder, Rung
from scalecli.bench.launch import Outcome
from scalecli.bench.peaks import peak_tflops
from scalecli.bench.records import Answer
from scalecli.core.config import from_mapping
from scalecli.core.results import jsonable

LADDER = Ladder("x", "x", (Rung("base"), Rung("new", config=RungConfig(batch_size=8))))


def outcomes(base: list[float], new: list[float], device: str = "CPU") -> list[Outcome]:
    return [
        Outcome(name, i, Answer("ok", samples_per_s=v, step_ms=(1.0, 3.0), device_name=device))
        for name, values in (("base", base), ("new", new))
        for i, v in enumerate(values)
    ]


def rows(found: list[Outcome], flops: float | None = None) -> dict[str, Row]:
    table = analyse(
        LADDER,
        found,
        flops_per_sample=flops,
        usd_per_hour=3.6,
        rng=np.random.default_rng(0),
    )
    return {row.rung: row for row in table}


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_equal_settings_are_seldom_different(repeats: int) -> None:
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(400):
        x, y = 100 * np.exp(0.05 * rng.standard_normal((2, repeats)))
        found = speedup(list(x), list(y), rng=rng)
        assert found is not None
        false += not found.low <= 1 <= found.high
    assert false <= 400 / 20


@pytest.mark.parametrize("repeats", [3, 5])
def test_a_planted_slowdown_is_found(repeats: int) -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        x, y = 100 * np.exp(0.03 * rng.standard_normal((2, repeats)))
        found = speedup(list(0.8 * x), list(y), rng=rng)
        assert found is not None
        hits += found.high < 1
    assert hits >= 90


def test_rows_follow_the_ladder_and_survive_json() -> None:
    table = rows(outcomes([100, 101, 99], [200, 203, 198]))
    assert list(table) == ["base", "new"]
    new = table["new"]
    assert new.samples_per_s == 200
    assert new.speedup == 2.0
    assert new.significant is True
    assert new.step_ms == 2.0
    assert new.usd_per_million == pytest.approx(5.0)
    again = from_mapping(Row, json.loads(json.dumps(jsonable(new))))
    assert jsonable(again) == jsonable(new)
    wanted = "rung status reason config samples_per_s speedup mfu peak_memory_mb final_loss repeats"
    assert set(wanted.split()) <= {f.name for f in dataclasses.fields(Row)}


def test_one_repeat_proves_nothing() -> None:
    new = rows(outcomes([100], [200]))["new"]
    assert (new.speedup, new.speedup_low, new.significant) == (2.0, None, None)


def test_failed_and_missing_rungs_stay() -> None:
    found = outcomes([100, 101], [])
    assert rows(found)["new"].status == "skipped"
    found.append(Outcome("new", 0, Answer("failed", "out of memory: 1")))
    assert rows(found)["new"].reason == "out of memory: 1"
    without_base = rows([o for o in outcomes([1], [2, 3]) if o.rung == "new"])
    assert without_base["new"].speedup is None


@pytest.mark.parametrize(
    ("flops", "status", "warns"), [(1e9, "ok", False), (1.7e9, "ok", True), (9e9, "failed", False)]
)
def test_mfu_is_judged(flops: float, status: str, warns: bool) -> None:
    device = "Inferentia2, Inf2, 2 cores"  # 23.75 TFLOP/s per core in float32
    row = rows(outcomes([10000], [10000], device), flops)["base"]
    assert row.status == status
    assert bool(row.warning) is warns


def test_unknown_devices_have_no_mfu() -> None:
    row = rows(outcomes([1], [1], "Some CPU, 2 cores"), 1e9)["base"]
    assert row.mfu is None
    assert row.tflops == pytest.approx(1e-3)
    assert peak_tflops("NVIDIA H100 80GB HBM3", "bfloat16 weights") == 989
    assert peak_tflops("NVIDIA H100 80GB HBM3", "float32") is None


def test_outliers_are_flagged() -> None:
    assert outliers([100, 101, 99, 100.5, 50]) == (4,)
    assert outliers([1.0, 1.0, 1.0]) == ()


def test_cost() -> None:
    assert usd_per_million(1000, 3.6) == pytest.approx(1.0)
    assert usd_per_million(1000, None) is None


def test_vit_b16_flops() -> None:
    bench = with_preset(BenchConfig(preset="article"), "cpu")
    assert train_flops(bench) / 1e9 == pytest.approx(105.15, abs=0.01)


def test_any_timm_model_is_counted() -> None:
    bench = with_preset(BenchConfig(model="resnet18", image_size=64), "cpu")
    assert train_flops(bench) > 0
