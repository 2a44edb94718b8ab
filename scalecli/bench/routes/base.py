"""The one interface behind which a way of running PyTorch on a device hides."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scalecli.bench.config import RungConfig

if TYPE_CHECKING:
    import torch


def installed_version(package: str) -> str | None:
    """Version of an installed package, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def command_output(command: Sequence[str]) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``2.9.0+cu128`` → (2, 9, 0)."""
    numbers = []
    for part in version.split("+", maxsplit=1)[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


@dataclass(frozen=True)
class Probe:
    """Where detection looks; tests look elsewhere."""

    root: Path = Path("/")
    """Root of the file system."""
    version: Callable[[str], str | None] = installed_version
    """Version of an installed package."""
    output: Callable[[Sequence[str]], str | None] = command_output
    """Output of a command."""


@dataclass(frozen=True)
class Detection:
    """Whether a route works here, and what was looked for."""

    found: bool
    detail: str
    """The device found, or what is missing and how to get it."""


@dataclass(frozen=True)
class Counters:
    """Compiler and transfer counters since the process began."""

    compilations: int = 0
    compile_s: float | None = None
    """None where it is not counted: the worker then infers it from the first steps."""
    executions: int | None = None
    transfer_s: float | None = None


class Route(ABC):
    """A way to run PyTorch on one kind of device.

    ``detect``, ``unsupported``, ``environment``, ``cache`` and ``precision`` import no torch and
    serve the launching process; the rest runs in a worker whose environment is already set.
    What is defined here is plain torch's way; a route overrides where its own differs.
    """

    name: str
    packages: tuple[str, ...]
    """Packages whose versions belong to a result."""
    foreign: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Settings of a rung that mean nothing here, by the reason."""

    @abstractmethod
    def detect(self, device: str, probe: Probe) -> Detection:
        """Whether ``device`` works here."""

    def unsupported(self, rung: RungConfig, device: str) -> str | None:
        """Why the rung cannot run on this route, or None."""
        for reason, names in self.foreign.items():
            if given := given_names(rung, names):
                return f"{given}: {reason}"
        return self.refuses(rung, device)

    def refuses(self, rung: RungConfig, device: str) -> str | None:
        """Why the rung cannot run, its foreign settings aside, or None."""
        return None

    def without_foreign(self, rung: RungConfig) -> RungConfig:
        """The rung with every foreign setting left at its default."""
        names = [name for names in self.foreign.values() for name in names]
        return dataclasses.replace(rung, **{name: getattr(DEFAULTS, name) for name in names})

    def environment(self, rung: RungConfig, device: str) -> dict[str, str]:
        """Variables to set before any import; the rung's own win."""
        return dict(rung.env)

    def cache(self, folder: Path, device: str) -> dict[str, str]:
        """Variables that keep compiled graphs in ``folder``; none where that is impossible."""
        return {}

    def precision(self, rung: RungConfig) -> str:
        """How ``--bf16``, ``--amp`` or ``--auto-cast`` is reached here."""
        if rung.bf16:
            return "bfloat16 weights"
        return "autocast bfloat16" if rung.amp else "float32"

    @abstractmethod
    def device(self, device: str) -> torch.device:
        """The device to put model and batches on."""

    def weights_bf16(self, rung: RungConfig) -> bool:
        """Whether model and images are cast to bfloat16 by the worker."""
        return rung.bf16

    def autocast(
        self, rung: RungConfig, device: torch.device
    ) -> contextlib.AbstractContextManager[Any]:
        """The context of the forward pass: autocast to bfloat16 under ``--amp``.

        It must name the device: ``autocast('cuda')`` leaves the matmuls of XLA in float32.
        """
        import torch

        if rung.amp:
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def loader(
        self, batches: Iterable[Any], device: torch.device, rung: RungConfig
    ) -> Iterator[Any]:
        """Batches on the device, for ever; ends an execution after every window."""
        for images, labels in batches:
            # Copies without waiting where the host memory is pinned.
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimiser step."""
        optimizer.step()

    def flush(self) -> None:
        """Start executing what was recorded; nothing where execution is eager."""
        return

    @abstractmethod
    def sync(self) -> None:
        """Wait until the device has done everything asked of it."""

    @abstractmethod
    def counters(self) -> Counters:
        """Compiler and transfer counters."""

    def waits_in_next(self, window_end: bool) -> bool:
        """Whether time in the loader's ``next`` is waiting for input alone."""
        return True

    def peak_memory_mb(self, device: torch.device) -> float | None:
        """Peak memory, MB, where the device tells."""
        return None

    def device_name(self, device: torch.device) -> str:
        """The device as its driver names it."""
        return cpu_name()


def cpu_name() -> str:
    """The processor's model name with its number of usable cores."""
    name = "CPU"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


NEURON_ONLY = ("auto_cast", "auto_cast_type", "model_type", "optlevel", "target")
XLA_ONLY = ("batches_per_execution", "loader_prefetch", "device_prefetch", "transfer_threads")
DEFAULTS = RungConfig()


def given_names(rung: RungConfig, names: Iterable[str]) -> str:
    """Flags among ``names`` that the rung sets, as text.

    ``--auto-cast none`` asks a compiler to change nothing: true wherever there is none.
    """
    return ", ".join(
        "--" + name.replace("_", "-")
        for name in names
        if getattr(rung, name) not in (getattr(DEFAULTS, name), "none")
    )
