"""Plain torch: cuda, mps and cpu, eager or through inductor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from scalecli.bench.config import RungConfig
from scalecli.bench.routes.base import (
    NEURON_ONLY,
    Counters,
    Detection,
    Probe,
    cpu_name,
    given_names,
    host_peak_mb,
)

if TYPE_CHECKING:
    import torch

XLA_ONLY = ("batches_per_execution", "loader_prefetch", "device_prefetch", "transfer_threads")


class Plain:
    """Any torch, on the device it knows by itself."""

    name = "plain"
    packages: tuple[str, ...] = ("torch", "timm", "triton")

    def detect(self, device: str, probe: Probe) -> Detection:
        """CPU always works; cuda and mps as torch says."""
        if device == "cpu":
            return Detection(True, cpu_name())
        import torch

        if device == "cuda":
            found = torch.cuda.is_available()
            missing = f"torch {torch.__version__} sees no CUDA device"
        else:
            found = torch.backends.mps.is_available()
            missing = f"torch {torch.__version__} sees no Metal (mps) device"
        return Detection(found, device if found else missing)

    def unsupported(self, rung: RungConfig, device: str) -> str | None:
        """Lazy execution and neuronx-cc options mean nothing here."""
        if names := given_names(rung, XLA_ONLY):
            return f"{names}: not applicable to plain torch, which runs every step at once"
        if names := given_names(rung, NEURON_ONLY):
            return f"{names}: an option of neuronx-cc, not applicable to {device}"
        if rung.compile not in (None, "inductor"):
            return f"--compile {rung.compile}: no such backend on {device}; use inductor"
        if rung.nproc > 1 and device == "mps":
            return "--nproc: mps has no collective communication"
        return None

    def environment(self, rung: RungConfig, device: str) -> dict[str, str]:
        """Nothing but the rung's own variables."""
        return dict(rung.env)

    def precision(self, rung: RungConfig) -> str:
        """How the requested precision is reached."""
        if rung.bf16:
            return "bfloat16 weights"
        return "autocast bfloat16" if rung.amp else "float32"

    def device(self, device: str) -> torch.device:
        """The device of this process (of its rank on cuda)."""
        import os

        import torch

        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device(device)

    def weights_bf16(self, rung: RungConfig) -> bool:
        """The whole model is cast."""
        return rung.bf16

    def autocast(
        self, rung: RungConfig, device: torch.device
    ) -> contextlib.AbstractContextManager[Any]:
        """Autocast to bfloat16 under ``--amp``."""
        import torch

        if rung.amp:
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def loader(
        self, batches: Iterable[Any], device: torch.device, rung: RungConfig
    ) -> Iterator[Any]:
        """Copies without waiting where the host memory is pinned."""
        for images, labels in batches:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimiser step."""
        optimizer.step()

    def flush(self) -> None:
        """Nothing is recorded."""

    def sync(self) -> None:
        """Wait for the accelerator in use."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        elif torch.backends.mps.is_available():
            torch.mps.synchronize()

    def counters(self) -> Counters:
        """Graphs that dynamo has compiled."""
        import sys

        if "torch._dynamo" not in sys.modules:
            return Counters()
        from torch._dynamo.utils import counters

        return Counters(compilations=counters["stats"]["unique_graphs"])

    def waits_in_next(self, window_end: bool) -> bool:
        """The loader does nothing but load and copy."""
        return True

    def peak_memory_mb(self, device: torch.device) -> float | None:
        """Peak of the CUDA allocator, or of the process on cpu."""
        import torch

        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        return host_peak_mb() if device.type == "cpu" else None

    def device_name(self, device: torch.device) -> str:
        """The device as its driver names it."""
        import torch

        return torch.cuda.get_device_name() if device.type == "cuda" else cpu_name()
