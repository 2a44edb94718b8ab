"""From the flags of ``scalecli bench-neuron`` to the rungs it measures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from scalecli.bench import ladder as ladders
from scalecli.bench.config import BenchConfig, RungConfig
from scalecli.bench.ladder import Ladder, Rung
from scalecli.bench.routes.base import Route
from scalecli.core.config import about, flag_of, option
from scalecli.core.errors import UsageError

Part = TypeVar("Part")
_COMPARE = {"panel": "Ladders and comparison"}
EVERY_RUNG = ("nproc", "env")
"""Settings that a ladder takes from the command line, for all of its rungs."""


@dataclass(frozen=True)
class RunConfig(RungConfig, BenchConfig):
    """A setting under test, how to measure it, and what to compare it with."""

    ladder: str | None = option(
        None, "article, aws, torch, or a YAML file: run its rungs.", **_COMPARE
    )
    compare: Path | None = option(
        None, "An earlier results.json: the ratio of every rung to it.", **_COMPARE
    )
    fail_above: float | None = option(
        None,
        "With --compare: exit 1 when a rung is slower beyond noise, by more than this percentage.",
        low=0,
        **_COMPARE,
    )
    find_batch: bool = option(
        False,
        "Where a rung runs out of memory, find the largest batch that fits.",
        **_COMPARE,
    )

    def __post_init__(self) -> None:
        RungConfig.__post_init__(self)
        BenchConfig.__post_init__(self)
        if self.fail_above is not None and self.compare is None:
            raise ValueError("--fail-above needs --compare OLD/results.json")


def part(cls: type[Part], whole: Any) -> Part:
    """The fields of ``cls`` from a config that inherits them."""
    own: tuple[dataclasses.Field[Any], ...] = fields(cls)  # type: ignore[arg-type]
    return cls(**{f.name: getattr(whole, f.name) for f in own})


def changed(rung: RungConfig) -> dict[str, Any]:
    """Settings of a rung that differ from the defaults."""
    default = RungConfig()
    return {
        f.name: getattr(rung, f.name)
        for f in fields(RungConfig)
        if getattr(rung, f.name) != getattr(default, f.name)
    }


def describe(rung: RungConfig) -> str:
    """A rung in words: ``bf16, batches-per-execution 10``; ``baseline`` for the defaults."""
    words = []
    for name, value in changed(rung).items():
        if name == "env":
            words += [f"{k}={v}" for k, v in value.items()]
        else:
            words.append(name.replace("_", "-") + ("" if value is True else f" {value}"))
    return ", ".join(words) or "baseline"


def flags(rung: RungConfig) -> list[str]:
    """The words on the command line that ask for a rung."""
    words: list[str] = []
    for field in fields(RungConfig):
        if field.name not in changed(rung):
            continue
        value, flag = getattr(rung, field.name), flag_of(field)
        if about(field).repeat:
            words += [word for k, v in value.items() for word in (flag, f"{k}={v}")]
        else:
            words += [flag] if value is True else [flag, str(value)]
    return words


def plan(config: RunConfig, route: Route, device: str) -> Ladder:
    """The rungs to measure: a ladder's, or the baseline and the given setting.

    Where the device knows only a part of the given setting, that part is a rung of its own and
    the whole stays in the table as unsupported. Several processes are compared with one.

    Raises:
        UsageError: settings beside a ladder that sets them itself.
    """
    given = part(RungConfig, config)
    if config.ladder is not None:
        return _whole_ladder(config.ladder, given)
    wanted = [RungConfig(), replace(given, nproc=1)]
    reduced = route.without_foreign(replace(given, nproc=1))
    if route.unsupported(wanted[1], device) and not route.unsupported(reduced, device):
        wanted.insert(1, reduced)
    wanted.append(given)
    named = {describe(rung): rung for rung in wanted}
    return Ladder("flags", "The given setting", tuple(_rung(n, c) for n, c in named.items()))


def _whole_ladder(name: str, given: RungConfig) -> Ladder:
    loaded = ladders.load(name)
    extra = changed(given)
    if clash := [f"--{key.replace('_', '-')}" for key in extra if key not in EVERY_RUNG]:
        raise UsageError(
            f"{', '.join(clash)}: the ladder sets this itself; leave it out, or write a ladder "
            "of your own"
        )
    rungs = []
    for rung in loaded.rungs:
        nproc = max(rung.config.nproc, given.nproc)
        env = {**rung.config.env, **given.env}
        rungs.append(replace(rung, config=replace(rung.config, nproc=nproc, env=env)))
    if given.nproc > 1:
        alone = replace(rungs[0].config, nproc=1)
        rungs.append(Rung("baseline, 1 process", config=alone))
    return replace(loaded, rungs=tuple(rungs))


def _rung(name: str, config: RungConfig) -> Rung:
    """A rung of that name, with the article's figures where it has the same setting."""
    for known in ladders.load("article").rungs:
        if known.config == config:
            return replace(known, name=name, after=None)
    return Rung(name, config=config)
