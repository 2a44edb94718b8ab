"""Native TorchNeuron (torch-neuronx ≥ 2.13): Trainium as torch's own device. Not run by us."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from scalecli.bench.config import RungConfig
from scalecli.bench.routes.base import XLA_ONLY, Detection, Probe
from scalecli.bench.routes.neuron import (
    INDEX,
    cc_flags,
    compile_cache,
    find_device,
    torch_neuronx,
)
from scalecli.bench.routes.plain import Plain

if TYPE_CHECKING:
    import torch


class NativeNeuron(Plain):
    """Eager steps and ``torch.compile(backend="neuron")`` on the device ``neuron``."""

    name = "native-neuron"
    packages: tuple[str, ...] = ("torch", "timm", "torch-neuronx", "neuronx-cc")
    foreign: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "native TorchNeuron has no equivalent": XLA_ONLY
    }

    def detect(self, device: str, probe: Probe) -> Detection:
        """A device node and a torch-neuronx that registers the device."""
        name, missing = find_device(probe)
        numbers, package = torch_neuronx(probe)
        if name is None:
            return Detection(False, f"{missing}; {package}")
        if numbers < (2, 13):
            return Detection(
                False,
                f"{name}, but {package}; native TorchNeuron needs 2.13 or newer from {INDEX}",
            )
        return Detection(True, f"{name}; {package}")

    def refuses(self, rung: RungConfig, device: str) -> str | None:
        """One compile backend."""
        if rung.compile not in (None, "neuron"):
            return f"--compile {rung.compile}: not a backend of TorchNeuron; use neuron"
        return None

    def environment(self, rung: RungConfig, device: str) -> dict[str, str]:
        """NEURON_CC_FLAGS."""
        flags = cc_flags(rung)
        return ({"NEURON_CC_FLAGS": flags} if flags else {}) | rung.env

    def cache(self, folder: Path, device: str) -> dict[str, str]:
        """The Neuron compile cache."""
        return compile_cache(folder)

    def device(self, device: str) -> torch.device:
        """Importing torch_neuronx registers the device."""
        import torch
        import torch_neuronx  # noqa: F401

        return torch.device("neuron")

    def sync(self) -> None:
        """Wait for the accelerator."""
        import torch

        torch.accelerator.synchronize()

    def peak_memory_mb(self, device: torch.device) -> float | None:
        """Unknown."""
        return None

    def device_name(self, device: torch.device) -> str:
        """The name in sysfs."""
        return find_device(Probe())[0] or "Neuron device"
