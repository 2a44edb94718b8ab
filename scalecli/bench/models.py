"""The model under test, from timm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalecli.bench.config import BenchConfig
from scalecli.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


def build(bench: BenchConfig) -> nn.Module:
    """An untrained model for ``bench`` (settled by ``with_preset``).

    Raises:
        UsageError: timm has no such model, or not at this image size.
    """
    import timm

    if bench.model is None or not timm.is_model(bench.model):
        known = did_you_mean(str(bench.model), timm.list_models())
        raise UsageError(f"--model: timm has no '{bench.model}'; {known}")
    try:
        try:
            model: nn.Module = timm.create_model(
                bench.model, num_classes=bench.num_classes, img_size=bench.image_size
            )
        except TypeError:
            # Convolutional models take any size and have no such argument.
            model = timm.create_model(bench.model, num_classes=bench.num_classes)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--model {bench.model} --image-size {bench.image_size}: {error}"
        ) from error
    return model
