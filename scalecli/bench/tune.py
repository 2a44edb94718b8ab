"""The best setting in a space, by Optuna's TPE over honest measurements."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalecli.bench.config import BenchConfig, RungConfig
from scalecli.bench.plan import describe
from scalecli.bench.records import Answer
from scalecli.bench.routes.base import Route
from scalecli.core.config import from_mapping, option
from scalecli.core.errors import UsageError, did_you_mean

Space = Mapping[str, Sequence[str]]
"""Values to try by setting, as the command line writes them."""

SPACE: Space = {
    "batch_size": ("4", "8", "16", "32", "64"),
    "num_workers": ("0", "1", "2"),
    "precision": ("none", "amp", "bf16"),
    "batches_per_execution": ("1", "2", "5", "10"),
    "compile": ("none", "inductor", "openxla", "neuron"),
    "model_type": ("none", "transformer"),
    "optlevel": ("none", "1", "2", "3"),
}
"""What is tried by default; values that a device does not know are left out."""

PRECISIONS: Mapping[str, Mapping[str, bool]] = {
    "none": {},
    "amp": {"amp": True},
    "bf16": {"bf16": True},
}
SEARCH_SHARE = 0.6
"""Share of the budget for the search; the rest measures the finalists again."""
FINALISTS = 2
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class TuneConfig(BenchConfig):
    """What to search and for how long."""

    budget: str = option("10m", "Time to spend, such as 90s, 10m or 1h.", panel="Search")
    space: tuple[str, ...] = option(
        (),
        "Values to try for a setting, as in batch_size=8,16; may be repeated, replaces the rest.",
        repeat=True,
        metavar="NAME=VALUES",
        panel="Search",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.budget_s, self.wanted_space

    @property
    def budget_s(self) -> float:
        """The budget in seconds."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", self.budget)
        if match is None or float(match[1]) == 0:
            raise ValueError(f"--budget {self.budget}: write a time such as 90s, 10m or 1h")
        return float(match[1]) * _UNITS[match[2]]

    @property
    def wanted_space(self) -> Space:
        """The space given by ``--space``, or the default one."""
        found: dict[str, Sequence[str]] = {}
        for text in self.space:
            name, equals, values = text.partition("=")
            name = name.strip().replace("-", "_")
            if not equals or not values.strip():
                raise ValueError(f"--space {text}: write NAME=VALUES, for example batch_size=8,16")
            if name not in SPACE:
                raise ValueError(f"--space {text}: {did_you_mean(name, SPACE)}")
            found[name] = tuple(dict.fromkeys(v.strip() for v in values.split(",")))
            for value in found[name]:
                try:
                    to_rung({name: value})
                except UsageError as error:
                    raise ValueError(f"--space {error}") from error
        return found or SPACE


@dataclass(frozen=True)
class Trial:
    """One measured point of the space."""

    params: dict[str, str]
    answer: Answer


def to_rung(params: Mapping[str, str]) -> RungConfig:
    """The setting that a point of the space stands for.

    Raises:
        UsageError: a value is not one of its setting.
    """
    values: dict[str, Any] = {}
    for name, value in params.items():
        if name == "precision":
            if value not in PRECISIONS:
                raise UsageError(f"precision: unknown '{value}'; {did_you_mean(value, PRECISIONS)}")
            values |= PRECISIONS[value]
        elif value != "none":
            values[name] = value
    return from_mapping(RungConfig, values)


def supported(space: Space, route: Route, bench: BenchConfig) -> Space:
    """The space without the values that the device does not know.

    Raises:
        UsageError: nothing is left to choose from.
    """

    def works(name: str, value: str) -> bool:
        rung = to_rung({name: value})
        fits = 2 * rung.batches_per_execution + 1 <= bench.max_warmup
        return (
            fits
            and rung.batches_per_execution <= bench.steps
            and route.unsupported(rung, bench.device) is None
        )

    left = {name: [v for v in values if works(name, v)] for name, values in space.items()}
    left = {name: values for name, values in left.items() if values}
    if not any(len(values) > 1 for values in left.values()):
        raise UsageError(f"--space: nothing to choose from on {bench.device}")
    return left


def search(
    space: Space,
    measure: Callable[[RungConfig], Answer],
    *,
    seed: int,
    known: Sequence[Trial] = (),
    stop: Callable[[], bool],
) -> Iterator[Trial]:
    """Yield trials until told to stop or the space is exhausted.

    Args:
        space: from :func:`supported`.
        measure: one process at one setting.
        seed: of the sampler.
        known: trials of an earlier search to learn from.
        stop: asked before every trial.

    Raises:
        UsageError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError("tune needs Optuna: pip install 'scalecli[tune]'") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=6)
    )
    choices = {name: optuna.distributions.CategoricalDistribution(v) for name, v in space.items()}
    seen: dict[tuple[str, ...], float] = {}
    for trial in known:
        if all(trial.params.get(name) in values for name, values in space.items()):
            value = trial.answer.samples_per_s or 0.0
            seen[_key(trial.params, space)] = value
            study.add_trial(
                optuna.trial.create_trial(
                    params={name: trial.params[name] for name in space},
                    distributions=choices,
                    value=value,
                )
            )
    everything = [dict(zip(space, v, strict=True)) for v in itertools.product(*space.values())]
    while len(seen) < len(everything) and not stop():
        asked = study.ask(choices)
        params: dict[str, str] = dict(asked.params)
        if _key(params, space) in seen:
            # TPE likes to repeat itself in small spaces: tell it what is known, take a new point.
            study.tell(asked, seen[_key(params, space)])
            params = next(p for p in everything if _key(p, space) not in seen)
            study.enqueue_trial(params)
            asked = study.ask(choices)
        answer = measure(to_rung(params))
        # A setting that fails is as bad as one that does nothing: the sampler must learn of it.
        seen[_key(params, space)] = answer.samples_per_s or 0.0
        study.tell(asked, seen[_key(params, space)])
        yield Trial(params, answer)


def _key(params: Mapping[str, str], space: Space) -> tuple[str, ...]:
    return tuple(params[name] for name in space)


def finalists(trials: Sequence[Trial]) -> list[RungConfig]:
    """The settings worth measuring again, the fastest first."""
    good = [t for t in trials if t.answer.status == "ok"]
    good.sort(key=lambda t: t.answer.samples_per_s or 0.0, reverse=True)
    different = {describe(to_rung(t.params)): to_rung(t.params) for t in good}
    return list(different.values())[:FINALISTS]


def affordable_repeats(seconds_left: float, per_process: float, rungs: int, most: int) -> int:
    """Repeats of ``rungs`` settings that fit the time left; two at least, for an interval."""
    return max(2, min(most, int(seconds_left / max(per_process * rungs, 1e-9))))


def deadline(config: TuneConfig) -> Callable[[], bool]:
    """Whether the time to search is over, from now on."""
    end = time.monotonic() + SEARCH_SHARE * config.budget_s
    return lambda: time.monotonic() >= end
