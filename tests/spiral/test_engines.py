"""The same seed gives the same rows for any engine, number of workers and order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scalecli.core.engine import EngineConfig
from scalecli.core.results import jsonable
from scalecli.spiral.rows import SweepRow
from scalecli.spiral.sweep import SweepConfig, in_order, plan, run_cell, sweep

CONFIG = SweepConfig(
    sizes=(50, 150), models=("knn1", "logistic", "forest", "mlp-xy"), seeds=2, test_points=1000
)


def untimed(rows: list[SweepRow]) -> list[SweepRow]:
    return [replace(row, fit_seconds=0, predict_seconds=0) for row in rows]


@pytest.fixture(scope="module")
def serial() -> list[SweepRow]:
    """Every cell in this process, in the config's order."""
    cells, _ = plan(CONFIG)
    return untimed([row for cell in cells for row in run_cell(cell)])


@pytest.mark.parametrize(
    "engine",
    [EngineConfig(workers=1), EngineConfig(workers=2), EngineConfig(engine="ray", workers=2)],
    ids=["one process", "two processes", "ray"],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_rows_depend_on_the_config_only(
    request: pytest.FixtureRequest, serial: list[SweepRow], engine: EngineConfig, backwards: bool
) -> None:
    if engine.engine == "ray":
        ray = pytest.importorskip("ray")
        request.addfinalizer(ray.shutdown)
    cells, _ = plan(CONFIG)
    order = list(reversed(cells)) if backwards else cells
    done: dict[str, list[dict[str, Any]]] = {
        cell.key: jsonable(rows) for cell, rows in sweep(order, engine=engine)
    }
    assert untimed(in_order(cells, done)) == serial
