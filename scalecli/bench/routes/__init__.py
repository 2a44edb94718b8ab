"""Ways to run PyTorch on a device, and which one to take."""

from __future__ import annotations

import os

from scalecli.bench.routes.base import Probe, Route
from scalecli.bench.routes.native_neuron import NativeNeuron
from scalecli.bench.routes.neuron import Neuron
from scalecli.bench.routes.plain import Plain
from scalecli.bench.routes.xla import Xla
from scalecli.core.errors import UsageError

ROUTES: dict[str, Route] = {
    route.name: route for route in (NativeNeuron(), Neuron(), Xla(), Plain())
}
"""Every route by name; a new one needs a module and a place here."""

BY_DEVICE: dict[str, tuple[str, ...]] = {
    "neuron": ("native-neuron", "neuron"),
    "cuda": ("plain",),
    "xla": ("xla",),
    "mps": ("plain",),
    "cpu": ("plain",),
}
"""Routes to a device, the best first."""


def choose(device: str, probe: Probe | None = None) -> tuple[Route, str, str]:
    """The route for a device, the device's name, and what was detected.

    ``auto`` takes the first of neuron, cuda, xla, mps, cpu that works; xla counts as better than
    cpu only where PJRT_DEVICE names something else than the CPU.

    Raises:
        UsageError: the device is not here; says what was looked for.
    """
    probe = probe or Probe()
    missing = []
    for candidate in BY_DEVICE if device == "auto" else (device,):
        if (
            device == "auto"
            and candidate == "xla"
            and os.environ.get("PJRT_DEVICE", "CPU") == "CPU"
        ):
            continue
        for name in BY_DEVICE[candidate]:
            found = ROUTES[name].detect(candidate, probe)
            if found.found:
                return ROUTES[name], candidate, found.detail
            if found.detail not in missing:
                missing.append(found.detail)
    raise UsageError(f"--device {device}: not found: {'; '.join(missing)}")
