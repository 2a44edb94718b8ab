"""torch-xla 2.9 through PJRT: TPU and CPU."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scalecli.bench.config import RungConfig
from scalecli.bench.routes.base import (
    NEURON_ONLY,
    Counters,
    Detection,
    Probe,
    Route,
    cpu_name,
    release,
)
from scalecli.core.memory import peak_mb

if TYPE_CHECKING:
    import torch

INSTALL = "pip install torch==2.9.0 torchvision==0.24.0 torch-xla==2.9.0"


class Xla(Route):
    """Lazy tensors: steps are recorded, and executed when the loader ends a window."""

    name = "xla"
    packages: tuple[str, ...] = ("torch", "timm", "torch-xla")
    foreign: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "an option of neuronx-cc, not applicable to torch-xla on other devices": NEURON_ONLY
    }

    def detect(self, device: str, probe: Probe) -> Detection:
        """A torch-xla that fits the installed torch; checked by version, for speed."""
        xla, torch = probe.version("torch-xla"), probe.version("torch")
        if xla is None:
            return Detection(False, f"torch-xla is not installed ({INSTALL})")
        if torch is None or release(torch)[:2] != release(xla)[:2]:
            return Detection(False, f"torch-xla {xla} cannot load with torch {torch} ({INSTALL})")
        return Detection(True, f"torch-xla {xla} on {self._pjrt()}")

    def _pjrt(self) -> str:
        return os.environ.get("PJRT_DEVICE", "CPU")

    def refuses(self, rung: RungConfig, device: str) -> str | None:
        """Other compilers' backends, and several processes on CPU."""
        if rung.compile not in (None, "openxla"):
            return f"--compile {rung.compile}: not a backend of torch-xla; use openxla"
        if rung.nproc > 1 and self._pjrt() == "CPU":
            return "--nproc: on torch-xla CPU every process has a world of its own (size 1)"
        return None

    def environment(self, rung: RungConfig, device: str) -> dict[str, str]:
        """The PJRT device and XLA_USE_BF16, both read once per process."""
        derived = {"PJRT_DEVICE": self._pjrt()}
        if rung.bf16:
            derived["XLA_USE_BF16"] = "1"
        return derived | rung.env

    def cache(self, folder: Path, device: str) -> dict[str, str]:
        """XLA's persistent cache; its CPU client cannot read back what it has written."""
        return {} if self._pjrt() == "CPU" else {"XLA_PERSISTENT_CACHE_PATH": str(folder)}

    def precision(self, rung: RungConfig) -> str:
        """How the requested precision is reached."""
        return "XLA_USE_BF16=1" if rung.bf16 else super().precision(rung)

    def device(self, device: str) -> torch.device:
        """The XLA device of this process."""
        import torch_xla

        found: torch.device = torch_xla.device()
        return found

    def weights_bf16(self, rung: RungConfig) -> bool:
        """XLA_USE_BF16 casts below torch."""
        return False

    def loader(
        self, batches: Iterable[Any], device: torch.device, rung: RungConfig
    ) -> Iterator[Any]:
        """MpDeviceLoader: prefetches to the device and syncs once per window."""
        from torch_xla.distributed.parallel_loader import MpDeviceLoader

        settings = {
            "batches_per_execution": rung.batches_per_execution,
            "loader_prefetch_size": rung.loader_prefetch,
            "device_prefetch_size": rung.device_prefetch,
            "host_to_device_transfer_threads": rung.transfer_threads,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        return iter(MpDeviceLoader(batches, device, **given))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Reduce gradients over processes, then step; the loader ends the execution."""
        import torch_xla.core.xla_model as xm

        xm.optimizer_step(optimizer)

    def flush(self) -> None:
        """Start executing what was recorded."""
        import torch_xla

        torch_xla.sync()

    def sync(self) -> None:
        """Wait for what was started."""
        import torch_xla.core.xla_model as xm

        xm.wait_device_ops()

    def counters(self) -> Counters:
        """torch-xla's own metrics."""
        from torch_xla.debug import metrics

        def read(name: str) -> tuple[int, float]:
            data = metrics.metric_data(name)
            return (int(data[0]), float(data[1]) / 1e9) if data else (0, 0.0)

        compilations, compile_s = read("CompileTime")
        executions, _ = read("ExecuteTime")
        _, transfer_s = read("TransferToDeviceTime")
        return Counters(compilations, compile_s, executions, transfer_s)

    def waits_in_next(self, window_end: bool) -> bool:
        """At the end of a window ``next`` dispatches the execution as well."""
        return not window_end

    def peak_memory_mb(self, device: torch.device) -> float | None:
        """Of the device where its runtime tells, of the process on CPU."""
        import torch_xla.core.xla_model as xm

        if self._pjrt() == "CPU":
            return peak_mb()
        try:
            info = xm.get_memory_info(device)
        except RuntimeError:
            return None
        peak = info.get("peak_bytes_used")
        return None if peak is None else peak / 1e6

    def device_name(self, device: torch.device) -> str:
        """The device as its driver names it."""
        import torch_xla.core.xla_model as xm

        return cpu_name() if self._pjrt() == "CPU" else str(xm.xla_device_hw(device))
