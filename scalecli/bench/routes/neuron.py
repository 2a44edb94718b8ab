"""Inferentia2 and Trainium through torch-xla. Not run on NeuronCores by us."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scalecli.bench.config import RungConfig
from scalecli.bench.routes.base import Detection, Probe, release
from scalecli.bench.routes.xla import Xla

if TYPE_CHECKING:
    import torch

INDEX = "AWS's Neuron package index (address: AWS's PyTorch Neuron setup page)"
INSTALL = f"pip install 'torch-neuronx==2.9.*' 'neuronx-cc==2.*' from {INDEX}"
ARCHITECTURE = "sys/devices/virtual/neuron_device/neuron0/info/architecture"
# Only these of the given settings are neuronx-cc's, in the order of its documentation.
CC_FLAGS = ("target", "model_type", "auto_cast", "auto_cast_type", "optlevel")


@dataclass(frozen=True)
class NeuronDevice:
    """One device as ``neuron-ls -j`` lists it."""

    index: int
    cores: int
    logical_core_config: int
    memory_bytes: int
    busy_pids: tuple[int, ...]


def parse_neuron_ls(text: str) -> tuple[NeuronDevice, ...]:
    """Devices from the output of ``neuron-ls -j``.

    A list of devices, as AWS's "Neuron LS User Guide" documents it; ``nc_count`` counts logical
    cores where ``logical_neuroncore_config`` (Trainium2 and later) groups physical ones.

    Raises:
        ValueError: the text is something else.
    """
    data: Any = json.loads(text)
    if not isinstance(data, list):
        raise ValueError("neuron-ls -j: expected a list of devices")
    try:
        return tuple(
            NeuronDevice(
                index=int(entry["neuron_device"]),
                cores=int(entry["nc_count"]),
                logical_core_config=int(entry.get("logical_neuroncore_config") or 1),
                memory_bytes=int(entry["memory_size"]),
                busy_pids=tuple(int(p["pid"]) for p in entry.get("neuron_processes") or ()),
            )
            for entry in data
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"neuron-ls -j: a device lacks {error}") from error


def is_placeholder(version: str) -> bool:
    """Whether a version is one of the public index's empty 1.0 "WRONG PACKAGE" uploads of 2022."""
    return release(version)[:2] == (1, 0)


def torch_neuronx(probe: Probe) -> tuple[tuple[int, ...], str]:
    """Release of the real torch-neuronx, empty where there is none, and what was found."""
    version = probe.version("torch-neuronx")
    if version is None:
        return (), "torch-neuronx is not installed"
    if is_placeholder(version):
        return (), f"torch-neuronx {version} is the public index's empty placeholder"
    return release(version), f"torch-neuronx {version}"


def find_device(probe: Probe) -> tuple[str | None, str]:
    """The Neuron device's name, or None and what was looked for."""
    nodes = [p for p in (probe.root / "dev").glob("neuron*") if re.fullmatch(r"neuron\d+", p.name)]
    if not nodes:
        return None, "no /dev/neuron0"
    names = []
    for entry in ("device_name", "instance_type", "arch_type"):
        try:
            names.append((probe.root / ARCHITECTURE / entry).read_text(encoding="utf-8").strip())
        except OSError:
            continue
    name = ", ".join(n for n in names if n) or "Neuron device"
    try:
        devices = parse_neuron_ls(_listed(probe))
    except ValueError:
        return name, ""
    groups = max((d.logical_core_config for d in devices), default=1)
    logical = f" (LNC {groups})" if groups > 1 else ""
    return f"{name}, {sum(d.cores for d in devices)} cores{logical}", ""


def _listed(probe: Probe) -> str:
    """Output of neuron-ls, which login shells alone have on their PATH."""
    for command in ("neuron-ls", "/opt/aws/neuron/bin/neuron-ls"):
        if listed := probe.output([command, "-j"]):
            return listed
    return ""


def compile_cache(folder: Path) -> dict[str, str]:
    """Where neuronx-cc keeps compiled graphs."""
    return {"NEURON_COMPILE_CACHE_URL": str(folder)}


class Neuron(Xla):
    """neuronx-cc behind lazy tensors; its flags and the runtime's variables."""

    name = "neuron"
    foreign: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    packages: tuple[str, ...] = (*Xla.packages, "torch-neuronx", "neuronx-cc", "libneuronxla")

    def detect(self, device: str, probe: Probe) -> Detection:
        """A device node and a real torch-neuronx on top of torch-xla."""
        name, missing = find_device(probe)
        numbers, package = torch_neuronx(probe)
        if name is None:
            return Detection(False, f"{missing}; {package}")
        if not numbers:
            return Detection(False, f"{name}, but {package} ({INSTALL})")
        if numbers >= (2, 13):
            return Detection(False, f"{package} no longer goes through torch-xla")
        return Detection(True, f"{name}; {package}")

    def _pjrt(self) -> str:
        return "NEURON"

    def refuses(self, rung: RungConfig, device: str) -> str | None:
        """What neuronx-cc does not offer."""
        if rung.compile == "openxla":
            return "--compile openxla: not supported by Neuron"
        if rung.compile is not None:
            return f"--compile {rung.compile}: needs native TorchNeuron (torch-neuronx ≥ 2.13)"
        return None

    def environment(self, rung: RungConfig, device: str) -> dict[str, str]:
        """NEURON_CC_FLAGS: those of the surroundings first, so that the rung's win."""
        derived = super().environment(rung, device)
        flags = cc_flags(rung)
        if flags and "NEURON_CC_FLAGS" not in rung.env:
            derived["NEURON_CC_FLAGS"] = " ".join(
                part for part in (os.environ.get("NEURON_CC_FLAGS", ""), flags) if part
            )
        if "NEURON_RT_NUM_CORES" not in rung.env and "NEURON_RT_VISIBLE_CORES" not in os.environ:
            derived.setdefault("NEURON_RT_NUM_CORES", str(rung.nproc))
        return derived

    def cache(self, folder: Path, device: str) -> dict[str, str]:
        """The Neuron compile cache."""
        return compile_cache(folder)

    def precision(self, rung: RungConfig) -> str:
        """The compiler's casts come on top of torch's."""
        base = super().precision(rung)
        if rung.auto_cast is None or rung.auto_cast == "none":
            return base
        return f"{base}, neuronx-cc auto-cast {rung.auto_cast} {rung.auto_cast_type or 'bf16'}"

    def device_name(self, device: torch.device) -> str:
        """The name in sysfs."""
        return find_device(Probe())[0] or "Neuron device"


def cc_flags(rung: RungConfig) -> str:
    """The rung's neuronx-cc flags.

    >>> cc_flags(RungConfig(auto_cast="all", auto_cast_type="fp8_e4m3"))
    '--auto-cast=all --auto-cast-type=fp8_e4m3'
    """
    return " ".join(
        f"--{name.replace('_', '-')}={getattr(rung, name)}"
        for name in CC_FLAGS
        if getattr(rung, name) is not None
    )
