from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalecli.core.errors import UsageError
from scalecli.core.results import Results, RowLog, cell_key, jsonable, load_results


@dataclass(frozen=True)
class Row:
    model: str
    n: int
    f1: float | None


def results(*rows: Row) -> Results[Row]:
    return Results(("scalecli", "x"), "spiral sweep", {"seed": 0, "sizes": [1, 2]}, rows)


def test_round_trip(tmp_path: Path) -> None:
    made = results(Row("knn1", 100, 0.1 + 0.2), Row("naïve ü", 10, None))
    assert load_results(made.save(tmp_path), Row, kind="spiral sweep") == made
    assert load_results(tmp_path, Row, kind="spiral sweep") == made


def test_nan_becomes_null_everywhere(tmp_path: Path) -> None:
    made = Results(
        ("x",),
        "k",
        {"limit": float("inf")},
        (Row("a", 1, float("nan")),),
        {"fit": np.array([1.0, np.inf])},
    )
    text = made.save(tmp_path).read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=pytest.fail)
    assert data["rows"][0]["f1"] is None
    assert data["summary"]["fit"] == [1.0, None]
    assert load_results(tmp_path, Row, kind="k").rows == (Row("a", 1, None),)


def test_undecodable_file_names_can_be_saved(tmp_path: Path) -> None:
    name = b"caf\xe9.csv".decode(errors="surrogateescape")
    made = Results(("scalecli", name), "k", {"data": name}, (Row(name, 1, 0.5),))
    made.save(tmp_path)
    assert load_results(tmp_path, Row, kind="k") == made
    log = RowLog(tmp_path / "rows.jsonl")
    log.append(name, made.rows)
    log.close()
    again = RowLog(tmp_path / "rows.jsonl")
    again.close()
    assert list(again.done) == [name]


def test_plain_data() -> None:
    numbers: dict[str, Any] = {"n": np.int64(3), "f1": np.float64(0.5)}
    row = Row("a", **numbers)
    assert json.dumps(jsonable({"p": Path("a/b"), "r": row, "t": (1, {2})})) == (
        '{"p": "a/b", "r": {"model": "a", "n": 3, "f1": 0.5}, "t": [1, [2]]}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\udcff",
        '{"schema": 2}',
        '{"schema": 1, "kind": "spiral sweep"}',
        '{"schema": 1, "kind": "spiral sweep", "command": [], "config": {}, "rows": 3}',
        '{"schema": 1, "kind": "spiral sweep", "command": [], "config": 3, "rows": []}',
        '{"schema": 1, "kind": "spiral sweep", "command": [], "config": {}, "rows": [1]}',
        '{"schema": 1, "kind": "spiral sweep", "command": [], "config": {}, "rows": [{"n": 1}]}',
        "[" * 100_000,
    ],
)
def test_damaged_is_one_clear_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as caught:
        load_results(tmp_path, Row, kind="spiral sweep")
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_missing_and_foreign(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_results(tmp_path, Row, kind="spiral sweep")
    results().save(tmp_path)
    with pytest.raises(UsageError, match="made by `scalecli spiral sweep`, not by `scalecli x`"):
        load_results(tmp_path, Row, kind="x")


@pytest.mark.parametrize("torn", ['{"key": "c", "ro', '{"key": "c", "rows": []}', "\n", "7\n"])
def test_torn_last_line_is_dropped_and_written_again(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "sub" / "rows.jsonl"
    log = RowLog(path)
    log.append("a", [Row("m", 1, 0.5)])
    log.append("b", [])
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())

    log = RowLog(path)
    assert list(log.done) == ["a", "b"]
    assert path.read_bytes() == whole
    log.append("c", [Row("m", 2, float("nan"))])
    log.close()

    log = RowLog(path)
    log.close()
    assert log.done == {
        "a": [{"model": "m", "n": 1, "f1": 0.5}],
        "b": [],
        "c": [{"model": "m", "n": 2, "f1": None}],
    }


def test_cell_key_sees_everything_but_the_order_of_keys() -> None:
    assert cell_key("k", {"a": 1, "b": 2}) == cell_key("k", {"b": 2, "a": 1})
    keys = {cell_key("k", {"a": 1}), cell_key("k", {"a": 2}), cell_key("l", {"a": 1})}
    assert len(keys) == 3
