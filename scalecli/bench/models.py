"""The model under test, from timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalecli.bench.config import BenchConfig
from scalecli.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


def check_name(name: str) -> None:
    """Refuse a model that timm does not have.

    Raises:
        UsageError: names the closest models.
    """
    import timm

    # timm takes `name.tag` too; the tag says which weights, and here there are none.
    if not timm.is_model(name):
        raise UsageError(f"--model: timm has no '{name}'; {did_you_mean(name, timm.list_models())}")


def build(bench: BenchConfig) -> nn.Module:
    """An untrained model for ``bench`` (settled by ``with_preset``).

    Raises:
        UsageError: timm has no such model, or not at this image size or depth.
    """
    import timm

    assert bench.model is not None, "settle the preset first"
    check_name(bench.model)
    settings: dict[str, Any] = {"num_classes": bench.num_classes}
    if bench.depth is not None:
        settings["depth"] = bench.depth
    try:
        try:
            model: nn.Module = timm.create_model(bench.model, img_size=bench.image_size, **settings)
        except TypeError:
            # Convolutional models take any size and have no such argument.
            model = timm.create_model(bench.model, **settings)
    except TypeError as error:
        raise UsageError(f"--depth: {bench.model} has no such setting ({error})") from error
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--model {bench.model} --image-size {bench.image_size}: {error}"
        ) from error
    return model
