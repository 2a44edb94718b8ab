"""What a worker is asked and what it answers; both travel as JSON files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scalecli.bench.config import BenchConfig, RungConfig
from scalecli.core.config import from_mapping, to_dict
from scalecli.core.errors import UsageError

Status = Literal["ok", "unsupported", "failed", "skipped"]


@dataclass(frozen=True)
class Request:
    """One rung to run once, on one route."""

    route: str
    """Key of ``ROUTES``."""
    device: str
    """cuda, mps, cpu, xla or neuron."""
    bench: BenchConfig
    """Settled by :func:`scalecli.bench.config.with_preset`."""
    rung: RungConfig
    """The setting under test."""

    def to_json(self) -> str:
        """The request as JSON text."""
        return json.dumps(to_dict(self))


@dataclass(frozen=True)
class Execution:
    """One execution of the warm-up."""

    steps: int
    """Steps in it."""
    ms: float
    """Wall time per step, ms."""
    compilations: int
    """Graphs compiled meanwhile."""


@dataclass(frozen=True)
class Answer:
    """What one process measured, or why it did not."""

    status: Status
    """How the process ended."""
    reason: str = ""
    """Why, when the status is not ok."""
    samples_per_s: float | None = None
    """Samples over the wall time of the timed block, all processes together."""
    step_ms: tuple[float, ...] = ()
    """Milliseconds per step, one value per execution."""
    warmup: tuple[Execution, ...] = ()
    """What came before, execution by execution, until compilation had stopped."""
    compile_s: float | None = None
    """Seconds spent compiling, None where nothing is compiled."""
    cold: bool = True
    """Whether the compile cache held nothing when the process began (or there is none)."""
    compilations: int | None = None
    """Graphs compiled in all."""
    executions: int | None = None
    """Graphs executed within the timed block."""
    transfer_s: float | None = None
    """Seconds of host-to-device transfer within the timed block."""
    input_wait_share: float | None = None
    """Share of the timed block spent waiting for input, None where it cannot be told apart."""
    final_loss: float | None = None
    """Loss of the last step."""
    peak_memory_mb: float | None = None
    """Peak device memory (host memory of the process on cpu), MB."""
    world_size: int = 1
    """Processes that really took part."""
    precision: str = ""
    """How the requested precision was reached."""
    device_name: str = ""
    """The device as its driver names it."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of what was measured."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables set for this rung."""


def read_answer(path: Path) -> Answer:
    """The answer in ``path``.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    return from_mapping(Answer, _read(path), where=str(path))


def read_request(path: Path) -> Request:
    """The request in ``path``.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    return from_mapping(Request, _read(path), where=str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a JSON object")
    return data
