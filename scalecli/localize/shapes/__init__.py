"""A CLIP that ships: a generator of scenes with exact masks, and a small CLIP trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from scalecli.localize.encoder import InputSpec


def load_shapes(folder: Path | None = None) -> tuple[Any, Callable[..., Any], InputSpec]:
    """The shapes CLIP: open_clip model in evaluation mode, its tokenizer, its input.

    No network is touched, and only tensors are read.

    Args:
        folder: of a finished ``scalecli localize train-shapes``; by default the shipped weights.

    Raises:
        UsageError: the folder holds no weights.
        ScalecliError: the weights are not those of their record.
    """
    from scalecli.localize.encoder import InputSpec
    from scalecli.localize.shapes.model import MEAN, SIDE, STD
    from scalecli.localize.shapes.tokenizer import tokenize
    from scalecli.localize.shapes.weights import SHIPPED, load_weights

    model = load_weights(SHIPPED if folder is None else folder)
    return model, tokenize, InputSpec(MEAN, STD, SIDE)
