"""The search finds the best point, learns from earlier trials, and refuses nonsense."""

import itertools
import json

import pytest

from scalecli.bench.config import BenchConfig, RungConfig, with_preset
from scalecli.bench.records import Answer, Execution
from scalecli.bench.routes import ROUTES
from scalecli.bench.tune import (
    SPACE,
    Trial,
    TuneConfig,
    affordable_repeats,
    finalists,
    search,
    supported,
    to_rung,
)
from scalecli.core.config import from_mapping, make
from scalecli.core.errors import UsageError
from scalecli.core.results import jsonable

SMALL = {"batch_size": ("4", "8", "16"), "precision": ("none", "bf16")}


def measure(rung: RungConfig) -> Answer:
    if rung.batch_size == 4:
        return Answer("failed", "out of memory")
    return Answer("ok", samples_per_s=rung.batch_size * (3.0 if rung.bf16 else 1.0))


def test_a_space_is_exhausted_without_measuring_twice() -> None:
    trials = list(search(SMALL, measure, seed=0, stop=lambda: False))
    points = {tuple(trial.params.values()) for trial in trials}
    assert points == set(itertools.product(*SMALL.values()))
    assert len(trials) == 6
    assert finalists(trials) == [
        RungConfig(batch_size=16, bf16=True),
        RungConfig(batch_size=8, bf16=True),
    ]


def test_earlier_trials_are_not_measured_again() -> None:
    known = list(itertools.islice(search(SMALL, measure, seed=0, stop=lambda: False), 4))
    more = list(search(SMALL, measure, seed=0, known=known, stop=lambda: False))
    assert len(more) == 2
    assert not {str(t.params) for t in known} & {str(t.params) for t in more}


def test_it_stops_when_told() -> None:
    assert list(search(SMALL, measure, seed=0, stop=lambda: True)) == []


def test_a_better_setting_is_found_in_few_trials() -> None:
    space = {"batch_size": tuple(map(str, range(1, 41))), "num_workers": ("0", "1", "2")}

    def rate(rung: RungConfig) -> Answer:
        return Answer("ok", samples_per_s=1000 - (rung.batch_size - 25) ** 2 - rung.num_workers)

    trials = itertools.islice(search(space, rate, seed=1, stop=lambda: False), 40)
    best = finalists(list(trials))[0]
    assert abs(best.batch_size - 25) <= 3


def test_only_what_the_device_knows_is_tried() -> None:
    bench = with_preset(BenchConfig(), "cpu")
    left = supported(SPACE, ROUTES["plain"], bench)
    assert left["batches_per_execution"] == ["1"]
    assert set(left["compile"]) <= {"none", "inductor"}
    short = with_preset(BenchConfig(steps=5), "xla")
    assert supported(SPACE, ROUTES["xla"], short)["batches_per_execution"] == ["1", "2", "5"]
    with pytest.raises(UsageError, match="nothing to choose"):
        supported({"optlevel": ("none", "1")}, ROUTES["plain"], bench)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"budget": "soon"}, "write a time such as"),
        ({"budget": "0m"}, "write a time such as"),
        ({"space": ["batch_siz=3"]}, "did you mean 'batch_size'"),
        ({"space": ["batch_size"]}, "NAME=VALUES"),
        ({"space": ["batch_size=0"]}, "too small"),
        ({"space": ["precision=fp8"]}, "unknown 'fp8'"),
    ],
)
def test_nonsense_is_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make(TuneConfig, given=given)


def test_budgets_and_points() -> None:
    assert make(TuneConfig, given={"budget": "1.5h"}).budget_s == 5400
    assert make(TuneConfig, given={"budget": "90"}).budget_s == 90
    assert to_rung({"precision": "amp", "compile": "none"}) == RungConfig(amp=True)
    assert [affordable_repeats(s, 10, 3, 5) for s in (0, 95, 1000)] == [2, 3, 5]
    assert finalists([Trial({}, Answer("failed"))]) == []


def test_trials_survive_json() -> None:
    answer = Answer("ok", warmup=(Execution(9, 2.5, 1), Execution(10, 2.0, 0)), step_ms=(1.0,))
    trial = Trial({"batch_size": "8"}, answer)
    assert from_mapping(Trial, json.loads(json.dumps(jsonable(trial)))) == trial
