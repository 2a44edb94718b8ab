"""From flags to rungs: what is compared with what."""

from pathlib import Path

import pytest

from scalecli.bench.config import BenchConfig, RungConfig
from scalecli.bench.ladder import load
from scalecli.bench.plan import RunConfig, describe, flags, part, plan
from scalecli.bench.routes import ROUTES
from scalecli.core.config import make
from scalecli.core.errors import UsageError


def names(config: RunConfig, route: str = "xla", device: str = "xla") -> list[str]:
    return [rung.name for rung in plan(config, ROUTES[route], device).rungs]


def test_nothing_given_measures_the_baseline_alone() -> None:
    assert names(RunConfig()) == ["baseline"]


def test_a_setting_is_compared_with_the_baseline() -> None:
    config = RunConfig(bf16=True, batches_per_execution=10)
    assert names(config) == ["baseline", "bf16, batches-per-execution 10"]


def test_what_a_device_knows_of_a_setting_is_a_rung_of_its_own() -> None:
    config = RunConfig(bf16=True, batches_per_execution=10)
    assert names(config, "plain", "cpu") == [
        "baseline",
        "bf16",
        "bf16, batches-per-execution 10",
    ]
    assert names(RunConfig(batches_per_execution=10), "plain", "cpu") == [
        "baseline",
        "batches-per-execution 10",
    ]


def test_several_processes_are_compared_with_one() -> None:
    assert names(RunConfig(amp=True, nproc=2)) == ["baseline", "amp", "amp, nproc 2"]
    rungs = plan(RunConfig(ladder="torch", nproc=2), ROUTES["plain"], "cpu").rungs
    assert {r.config.nproc for r in rungs[:-1]} == {2}
    assert (rungs[-1].name, rungs[-1].config.nproc) == ("baseline, 1 process", 1)


def test_the_articles_figures_go_with_the_same_setting() -> None:
    config = RunConfig(batch_size=8, num_workers=1, bf16=True)
    base, own = plan(config, ROUTES["xla"], "xla").rungs
    assert (base.article_samples_per_s, own.article_samples_per_s) == (251.98, 394.51)


def test_a_ladder_refuses_settings_of_its_own() -> None:
    with pytest.raises(UsageError, match="--batch-size, --bf16: the ladder sets this"):
        names(RunConfig(ladder="article", batch_size=4, bf16=True))
    config = RunConfig(ladder="article", env={"A": "1"})
    rungs = plan(config, ROUTES["xla"], "xla").rungs
    assert all(rung.config.env == {"A": "1"} for rung in rungs)


def test_a_ladder_may_extend_another(tmp_path: Path) -> None:
    article, aws = load("article").rungs, load("aws").rungs
    assert aws[: len(article)] == article
    assert aws[-1].config.batch_size == 64
    loop = tmp_path / "loop.yaml"
    loop.write_text("extends: loop\nrungs: [{name: a}]")
    with pytest.raises(UsageError, match="extends itself"):
        load(loop)


@pytest.mark.parametrize("ladder", ["article", "aws", "torch"])
def test_flags_ask_for_the_same_rung(ladder: str) -> None:
    for rung in load(ladder).rungs:
        words = flags(rung.config)
        given: dict[str, object] = {}
        while words:
            name = words.pop(0)[2:].replace("-", "_")
            value = words.pop(0) if words and not words[0].startswith("--") else True
            given[name] = [*given.get(name, []), value] if name == "env" else value  # type: ignore[misc]
        assert part(RungConfig, make(RunConfig, given=given)) == rung.config


def test_environment_flags() -> None:
    config = make(RunConfig, given={"env": ["A=1", "B=x=y"]})
    assert config.env == {"A": "1", "B": "x=y"}
    with pytest.raises(UsageError, match="write KEY=VALUE"):
        make(RunConfig, given={"env": ["A"]})
    assert describe(RungConfig(env={"A": "1"})) == "A=1"


@pytest.mark.parametrize(
    "values",
    [
        {"nnodes": 2},
        {"rdzv_endpoint": "a:1"},
        {"fail_above": 5.0},
        {"amp": True, "bf16": True},
    ],
)
def test_what_needs_something_else_says_so(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--"):
        make(RunConfig, given=values)


def test_parts_cover_the_whole() -> None:
    assert part(RungConfig, RunConfig(batch_size=3)) == RungConfig(batch_size=3)
    assert part(BenchConfig, RunConfig(steps=7)) == BenchConfig(steps=7)
