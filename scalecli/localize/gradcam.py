"""Grad-CAM: features weighed by the mean gradient of a score, negative evidence cut off.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization" (ICCV 2017): weight_i = spatial mean of d score / d f_i(x, y);
heatmap = ReLU(Σ_i weight_i f_i). On a network with global average pooling and one linear layer
it equals the ReLU of CAM up to a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError
from scalecli.localize.vit import Tower


def gradcam(
    score: Callable[[Tensor], Tensor], layer: nn.Module, image: Tensor, *, relu: bool = True
) -> Tensor:
    """Grad-CAM at any layer of any network whose output is [B, C, h, w].

    One forward pass, and one backward pass per prompt from the score to the layer. Parameters
    get no gradients, and the hook is gone afterwards, even after an error.

    Args:
        score: maps the image to scores [B, P], running ``layer`` once on the way.
        layer: the module whose output is explained.
        image: [B, 3, height, width].
        relu: cut off negative evidence, as the paper does.

    Returns:
        [B, P, h, w], float32.

    Raises:
        UsageError: the layer is not run, or its output is no feature map.
    """
    seen: list[Tensor] = []

    def capture(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"gradcam: {type(layer).__name__} gives {found}; choose a layer that gives "
                "features [B, C, h, w]"
            )
        # The graph starts here, which saves the memory of all layers below.
        leaf = output.detach().requires_grad_()
        seen.append(leaf)
        # A copy, because the next layer may work in place, which a leaf forbids.
        return leaf.clone()

    handle = layer.register_forward_hook(capture)
    try:
        with torch.set_grad_enabled(True):
            scores = score(image)
    finally:
        handle.remove()
    if not seen:
        raise UsageError(f"gradcam: {type(layer).__name__} takes no part in the score")
    features = seen[-1]
    maps = []
    for gradient in _gradients(scores, features):
        weight = gradient.mean(dim=(2, 3), keepdim=True)
        maps.append((weight * features.detach()).float().sum(dim=1))
    stacked = torch.stack(maps, dim=1)
    return stacked.relu() if relu else stacked


def gradcam_vit(
    tower: Tower, image: Tensor, text: Tensor, *, block: int = -1, relu: bool = True
) -> Tensor:
    """Grad-CAM of the image–text cosine at ``ln_1`` of a block of a CLIP ViT.

    ``ln_1`` and nothing later: after the last block's attention the gradient reaches only the
    class token. The class token is left out of the mean gradient.

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        block: which block, negative from the end.
        relu: cut off negative evidence, as the paper does.

    Returns:
        [B, P, gh, gw], float32.
    """
    grid = tower.grid(image)
    count = len(tower.blocks)
    if not -count <= block < count:
        raise UsageError(f"block: {block} is outside {-count}…{count - 1} of this tower")
    x = tower.embed(image).detach()
    with torch.no_grad():
        for earlier in tower.blocks[: block % count]:
            x = tower.leave(tower.enter(earlier, x))
        normed = tower.enter(tower.blocks[block], x).normed
    with torch.set_grad_enabled(True):
        leaf = normed.detach().clone().requires_grad_()
        x = tower.leave(tower.enter(tower.blocks[block], x, leaf))
        for later in tower.blocks[block % count + 1 :]:
            x = tower.leave(tower.enter(later, x))
        pooled = F.normalize(tower.pooled(x).float(), dim=-1)
        scores = pooled @ F.normalize(text.detach().float(), dim=-1).T
    maps = []
    for gradient in _gradients(scores, leaf):
        weight = gradient[:, 1:].float().mean(dim=1, keepdim=True)
        maps.append((weight * leaf.detach()[:, 1:].float()).sum(dim=-1))
    stacked = torch.stack(maps, dim=1).reshape(len(image), len(text), *grid)
    return stacked.relu() if relu else stacked


def _gradients(scores: Tensor, features: Tensor) -> list[Tensor]:
    """Gradient of every column of ``scores`` [B, P] with respect to ``features``.

    Images do not touch each other in evaluation mode, so a column is summed over the batch.
    """
    gradients: list[Tensor] = []
    for p in range(scores.shape[1]):
        column = torch.zeros_like(scores)
        column[:, p] = 1
        gradients += torch.autograd.grad(scores, features, column, retain_graph=True)
    return gradients
