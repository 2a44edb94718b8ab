"""Ladders: rungs in order, each one standing on an earlier one, as files in ``configs/bench``.

The article's ladder is ``configs/bench/article.yaml`` (Chaim Rand, "AI Model Optimization on AWS
Inferentia and Trainium", 2024) with the figures it reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalecli.bench.config import RungConfig
from scalecli.core.config import find_file, from_mapping, load_yaml, option, section, to_dict
from scalecli.core.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Rung:
    """A named setting, with what the article measured for it."""

    name: str = option(help="Name in the table; unique within the ladder.")
    after: str | None = option(None, "Earlier rung whose settings this one keeps.")
    config: RungConfig = section(RungConfig, "Settings; those of `after` unless given here.")
    article_samples_per_s: float | None = option(None, "The article's samples/s.", above=0)
    article_speedup: float | None = option(None, "The article's factor over its base.", above=0)
    article_says: str = option("", "The article's words where it gives no figure.")
    footnote: str = option("", "Why the article's figure may not be comparable.")


@dataclass(frozen=True)
class Ladder:
    """Rungs in order; the first is the baseline."""

    name: str
    title: str
    rungs: tuple[Rung, ...]

    @property
    def baseline(self) -> Rung:
        """What the others are compared with."""
        return self.rungs[0]


KEYS = ("title", "extends", "rungs")


def load(name: str | Path, *, within: tuple[Path, ...] = ()) -> Ladder:
    """A shipped ladder by name (``article``, ``aws``) or a file's.

    Args:
        name: the name, or a path.
        within: files that are being read because they extend this one.

    Raises:
        UsageError: no such file, an unknown key, a value out of range, or a file that extends
            itself, by way of others perhaps.
    """
    path = Path(name)
    if not path.suffix and path.parent == Path():
        path = Path("bench") / path
    path = find_file(path)
    if path.resolve() in within:
        raise UsageError(f"{within[-1]}: `extends` leads back to {path}")
    inner = (*within, path.resolve())
    return parse(load_yaml(path), name=path.stem, where=str(path), within=inner)


def parse(
    data: Mapping[str, Any], *, name: str, where: str, within: tuple[Path, ...] = ()
) -> Ladder:
    """A ladder from ``{title, extends, rungs: [...]}``; its rungs follow those it extends.

    Raises:
        UsageError: an unknown key, or a value out of range.
    """
    for key in data:
        if key not in KEYS:
            raise UsageError(f"{where}: unknown key '{key}'; {did_you_mean(str(key), KEYS)}")
    entries = data.get("rungs")
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{where}: `rungs` must list at least one rung")
    rungs: dict[str, Rung] = {}
    if (extended := data.get("extends")) is not None:
        if extended == name:
            raise UsageError(f"{where}: extends itself")
        rungs = {rung.name: rung for rung in load(str(extended), within=within).rungs}
    for number, entry in enumerate(entries, 1):
        rung = _rung(entry, rungs, f"{where}: rung {number}")
        rungs[rung.name] = rung
    return Ladder(name, str(data.get("title", name)), tuple(rungs.values()))


def _rung(entry: object, earlier: Mapping[str, Rung], where: str) -> Rung:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected keys and values, found {entry!r}")
    after = entry.get("after")
    if after is not None:
        if after not in earlier:
            known = did_you_mean(str(after), earlier)
            raise UsageError(f"{where}: after '{after}' is no earlier rung; {known}")
        own = entry.get("config", {})
        if not isinstance(own, dict):
            raise UsageError(f"{where}: config: expected keys and values, found {own!r}")
        entry = {**entry, "config": {**to_dict(earlier[after].config), **own}}
    rung = from_mapping(Rung, entry, where=where)
    if rung.name in earlier:
        raise UsageError(f"{where}: the name '{rung.name}' is taken")
    return rung
