"""Which device a name means on this machine."""

from __future__ import annotations

from scalecli.core.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> str:
    """``cpu``, ``cuda`` or ``mps``; ``auto`` takes the best that is present.

    Raises:
        UsageError: the named device is not present.
    """
    import torch

    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, here in present.items() if here)
    if not present.get(name, False):
        here = ", ".join(device for device, there in present.items() if there)
        raise UsageError(f"--device {name}: not present here; present: {here}")
    return name
