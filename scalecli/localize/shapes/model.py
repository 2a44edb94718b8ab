"""The shapes CLIP: open_clip's own classes, small enough to ship."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalecli.localize.shapes.scenes import Scene
from scalecli.localize.shapes.tokenizer import CONTEXT, VOCABULARY

PATCH = 8
SIDE = 96
"""Pixels of the side that positions are learned for: a grid of 12×12."""
MEAN = STD = (0.5, 0.5, 0.5)
"""Input statistics: pixels go from −1 to 1."""
TRUNK: dict[str, Any] = {
    "embed_dim": 128,
    "quick_gelu": False,
    "vision_cfg": {
        "image_size": SIDE,
        "patch_size": PATCH,
        "width": 128,
        "head_width": 32,
        "layers": 8,
        "pool_type": "tok",
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": 128,
        "heads": 4,
        "layers": 2,
        "pool_type": "argmax",
    },
}
"""open_clip's model config: a ViT with a class token, as OpenAI's, and a causal text tower."""


def build(seed: int = 0) -> Any:
    """A new shapes CLIP with random weights, in evaluation mode; global random state is kept.

    There is no dropout: evaluation mode computes the same as training mode.
    """
    from open_clip.model import CustomTextCLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CustomTextCLIP(**TRUNK).eval()
    with torch.no_grad():
        model.visual.positional_embedding[1:] = _waves(SIDE // PATCH, TRUNK["vision_cfg"]["width"])
    return model


def _waves(grid: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [grid², width]: where positions start to learn from.

    Beyer, Zhai, Kolesnikov, "Better plain ViT baselines for ImageNet-1k" (2022). Scaled to the
    size of open_clip's own random start.
    """
    rates = float(grid) ** -torch.linspace(0, 1, width // 4)
    phase = torch.arange(grid)[:, None] * rates
    one = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = one.repeat_interleave(grid, 0), one.repeat(grid, 1)
    return torch.cat([rows, columns], dim=1) * float((2 / width) ** 0.5)


def pixels(scenes: Sequence[Scene]) -> Tensor:
    """Scenes as the image tower takes them: [B, 3, side, side], float32."""
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
