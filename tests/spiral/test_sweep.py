"""The sweep: planning, determinism, resume, own tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score as reference_f1

from scalecli.core.errors import UsageError
from scalecli.core.results import RowLog
from scalecli.spiral.owndata import _stratified, load_table
from scalecli.spiral.rows import SweepRow
from scalecli.spiral.sweep import STACK, SweepConfig, f1_score, in_order, plan, run_cell

SMALL = SweepConfig(sizes=(50, 200), models=("knn1", "knn5", "logistic"), seeds=2, test_points=2000)


def _scores(rows: list[SweepRow]) -> list[tuple[object, ...]]:
    return [(r.model, r.n, r.seed, r.region, r.f1, r.error) for r in rows]


def test_cells_are_deterministic_and_region_scores_are_consistent() -> None:
    cells, _ = plan(SMALL)
    rows = [row for cell in cells for row in run_cell(cell)]
    again = [row for cell in reversed(cells) for row in run_cell(cell)]
    assert sorted(_scores(rows), key=str) == sorted(_scores(again), key=str)
    assert len(rows) == 3 * 2 * 2 * 4
    assert all(r.accuracy == pytest.approx(1 - r.error) for r in rows if r.error is not None)


def test_a_resumed_log_gives_the_same_rows(tmp_path: Path) -> None:
    cells, _ = plan(SMALL)
    whole = RowLog(tmp_path / "whole.jsonl")
    for cell in cells:
        whole.append(cell.key, run_cell(cell))
    whole.close()
    part = RowLog(tmp_path / "part.jsonl")
    for cell in cells[:5]:
        part.append(cell.key, run_cell(cell))
    part.close()
    with (tmp_path / "part.jsonl").open("a") as file:
        file.write('{"key": "torn')
    part = RowLog(tmp_path / "part.jsonl")
    assert len(part.done) == 5
    for cell in cells:
        if cell.key not in part.done:
            part.append(cell.key, run_cell(cell))
    part.close()
    assert _scores(in_order(cells, part.done)) == _scores(in_order(cells, whole.done))


def test_keys_change_with_whatever_matters() -> None:
    (cell, *_), _ = plan(SMALL)
    others = [
        replace(cell, n=51),
        replace(cell, seeds=(1,)),
        replace(cell, test_points=2001),
        replace(cell, eval="grid"),
        replace(cell, model="knn3"),
        replace(cell, problem=replace(cell.problem, label_noise=0.1)),
    ]
    assert len({cell.key, *(o.key for o in others)}) == len(others) + 1


def test_stacked_models_group_seeds_the_same_way_whatever_is_left() -> None:
    cells, _ = plan(SweepConfig(models=("mlp-polar",), sizes=(100,), seeds=STACK + 2))
    assert [len(c.seeds) for c in cells] == [STACK, 2]


@pytest.mark.parametrize("macro", [False, True])
def test_f1_equals_scikit_learn(macro: bool) -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 2, 500), rng.integers(0, 2, 500)
    expected = reference_f1(truth, guess, average="macro" if macro else "binary")
    assert f1_score(truth, guess, 2, macro=macro) == pytest.approx(expected)


def test_no_positive_training_point_is_scored_not_crashed() -> None:
    cells, _ = plan(
        SweepConfig(sizes=(2,), models=("knn1", "mlp-polar", "forest"), seeds=2, test_points=500)
    )
    for cell in cells:
        for row in run_cell(cell):
            assert row.f1 is None or 0 <= row.f1 <= 1


def test_what_does_not_fit_is_left_out_with_a_note() -> None:
    cells, notes = plan(SweepConfig(sizes=(1000, 10**6), models=("svm-rbf",), seeds=1))
    assert [c.n for c in cells] == [1000]
    assert "svm-rbf" in notes[0]


def test_k_above_n_and_unknown_models_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="knn5"):
        plan(SweepConfig(sizes=(3,), models=("knn5",)))
    with pytest.raises(UsageError, match="did you mean"):
        plan(SweepConfig(models=("mlp-pola",)))


def _table(path: Path, n: int = 200) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    kind = rng.choice(["a", "b", "c"], n)
    y = np.where(x + (kind == "a") > 0.3, "yes", "no")
    pl.DataFrame({"x": x, "kind": kind, "y": y}).write_csv(path)
    return path


def test_own_table_learning_curve(tmp_path: Path) -> None:
    config = SweepConfig(
        data=_table(tmp_path / "t.csv"),
        target="y",
        sizes=(20, 150),
        seeds=3,
        models=("knn1", "logistic"),
    )
    cells, _ = plan(config)
    rows = [row for cell in cells for row in run_cell(cell)]
    best = [r.error for r in rows if r.model == "logistic" and r.n == 150]
    assert max(e for e in best if e is not None) < 0.15
    assert {r.region for r in rows} == {"all"}


def test_csv_and_parquet_are_the_same_table(tmp_path: Path) -> None:
    csv = _table(tmp_path / "t.csv")
    pl.read_csv(csv).write_parquet(tmp_path / "t.parquet")
    a, b = load_table(csv, "y"), load_table(tmp_path / "t.parquet", "y")
    assert (a.x_ND == b.x_ND).all()
    assert (a.y_N == b.y_N).all()


def test_stratified_subsets_keep_the_proportions() -> None:
    y = np.repeat([0, 1, 2], [600, 300, 100])
    take = _stratified(y, 100, np.random.default_rng(0))
    assert len(set(take)) == 100
    assert np.bincount(y[take]) == pytest.approx([60, 30, 10], abs=1.5)


@pytest.mark.parametrize(
    ("text", "target", "words"),
    [
        ("a,y\n1,u\n", "z", "no such column"),
        ("a,y\n" + "1,u\n,v\n" * 20, "y", "missing values in 'a'"),
        ("a,y\n" + "1,u\n" * 30, "y", "only one class"),
        ("a,y\n1,u\n2,v\n3,u\n", "y", "3 complete rows"),
        ("a,y\n" + "".join(f"{i},{i / 7}\n" for i in range(60)), "y", "bin a continuous"),
        ("y\n" + "u\nv\n" * 20, "y", "no column besides"),
        ("a,y\n" + "1,u\n" * 30 + "2,v\n", "y", "class 'v' has 1 rows"),
        ("", "y", "not a readable"),
    ],
)
def test_bad_tables_get_one_clear_line(tmp_path: Path, text: str, target: str, words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_table(path, target)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
