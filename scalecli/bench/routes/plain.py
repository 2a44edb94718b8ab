"""Plain torch: cuda, mps and cpu, eager or through inductor."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from scalecli.bench.config import RungConfig
from scalecli.bench.routes.base import (
    NEURON_ONLY,
    XLA_ONLY,
    Counters,
    Detection,
    Probe,
    Route,
    cpu_name,
)
from scalecli.core.memory import peak_mb

if TYPE_CHECKING:
    import torch

CPP_COMPILERS = ("g++", "clang++", "c++", "icpx")


class Plain(Route):
    """Any torch, on the device it knows by itself."""

    name = "plain"
    packages: tuple[str, ...] = ("torch", "timm", "triton")
    foreign: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "not applicable to plain torch, which runs every step at once": XLA_ONLY,
        "an option of neuronx-cc, not applicable to plain torch": NEURON_ONLY,
    }

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

    def refuses(self, rung: RungConfig, device: str) -> str | None:
        """Other compilers' backends, inductor on a host without a compiler, several on mps."""
        if rung.compile not in (None, "inductor"):
            return f"--compile {rung.compile}: no such backend on {device}; use inductor"
        compilers = [os.environ.get("CXX", ""), *CPP_COMPILERS]
        if rung.compile and device == "cpu" and not any(map(shutil.which, filter(None, compilers))):
            return "--compile inductor: needs a C++ compiler on cpu; none found (set CXX)"
        if rung.nproc > 1 and device == "mps":
            return "--nproc: mps has no collective communication"
        return None

    def cache(self, folder: Path, device: str) -> dict[str, str]:
        """Inductor's cache of generated code."""
        return {"TORCHINDUCTOR_CACHE_DIR": str(folder)}

    def device(self, device: str) -> torch.device:
        """The device of this process (of its rank on cuda)."""
        import torch

        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device(device)

    def sync(self) -> None:
        """Wait for the accelerator in use."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        elif torch.backends.mps.is_available():
            torch.mps.synchronize()

    def counters(self) -> Counters:
        """Graphs that dynamo has compiled."""
        if "torch._dynamo" not in sys.modules:
            return Counters()
        from torch._dynamo.utils import counters

        return Counters(compilations=counters["stats"]["unique_graphs"])

    def peak_memory_mb(self, device: torch.device) -> float | None:
        """Peak of the CUDA allocator, or of the process on cpu."""
        import torch

        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        return peak_mb() if device.type == "cpu" else None

    def device_name(self, device: torch.device) -> str:
        """The device as its driver names it."""
        import torch

        return torch.cuda.get_device_name() if device.type == "cuda" else cpu_name()
