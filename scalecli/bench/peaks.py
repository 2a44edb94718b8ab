"""Dense peaks and prices: published figures, dated; an unknown device has none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PRICES_AS_OF = "2026"
"""The year of the prices below."""

USD_PER_HOUR = {
    "inf2.xlarge": 0.7582,
    "trn1.2xlarge": 1.34375,
    "trn1.32xlarge": 21.50,
    "g5.xlarge": 1.006,
    "p5.48xlarge": 55.04,
}
"""On-demand price by instance type, from third-party tables."""


@dataclass(frozen=True)
class Peak:
    """Dense TFLOP/s of one core (Neuron) or one device by precision; None is unknown."""

    bf16: float
    fp8: float | None = None
    fp32: float | None = None


def _cores(cores: int, bf16: float, fp8: float, fp32: float) -> Peak:
    return Peak(bf16 / cores, fp8 / cores, fp32 / cores)


PEAKS = {
    "inferentia2": _cores(2, 190, 190, 47.5),
    "inf2": _cores(2, 190, 190, 47.5),
    "trainium1": _cores(2, 190, 190, 47.5),
    "trn1": _cores(2, 190, 190, 47.5),
    "trainium2": _cores(8, 667, 1299, 181),
    "trn2": _cores(8, 667, 1299, 181),
    "trainium3": _cores(8, 671, 2517, 183),
    "trn3": _cores(8, 671, 2517, 183),
    "a100": Peak(312),
    "h100 80gb hbm3": Peak(989),
    "h200": Peak(989),
}
"""By a part of the device's name, in lower case."""


def peak_tflops(device_name: str, precision: str) -> float | None:
    """Dense peak of the device one process uses, None where no figure is known.

    Args:
        device_name: as the driver says it.
        precision: the text of ``Route.precision``.
    """
    name = device_name.lower()
    found = [peak for part, peak in PEAKS.items() if part in name]
    if not found:
        return None
    half = any(sign in precision.lower() for sign in ("bfloat16", "bf16", "fp16"))
    figure = found[0].bf16 if half else found[0].fp32
    if "fp8" in precision:
        figure = found[0].fp8
    # A logical core of Trainium2 and later may hold several physical ones.
    grouped = re.search(r"\(lnc (\d+)\)", name)
    return figure if figure is None or grouped is None else figure * int(grouped[1])


def instance_type(root: Path = Path("/")) -> str | None:
    """The EC2 instance type, from the firmware's product name; None elsewhere."""
    try:
        name = (root / "sys/devices/virtual/dmi/id/product_name").read_text(encoding="utf-8")
    except OSError:
        return None
    return name.strip() if re.fullmatch(r"[a-z0-9-]+\.[a-z0-9]+", name.strip()) else None
