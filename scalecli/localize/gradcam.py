"""Grad-CAM: features weighed by the mean gradient of a score, negative evidence cut off.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization" (ICCV 2017): weight_i = spatial mean of d score / d f_i(x, y);
heatmap = ReLU(Σ_i weight_i f_i). On a network with global average pooling and one linear layer
it equals the ReLU of CAM up to a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError
from scalecli.localize.vit import Tower


def gradcam(
    score: Callable[[Tensor], Tensor],
    layer: nn.Module,
    image: Tensor,
    *,
    relu: bool = True,
    as_map: Callable[[Tensor], Tensor] = lambda features: features,
) -> Tensor:
    """Grad-CAM at any layer of any network whose output is, or stands for, [B, C, h, w].

    Arguments, result and errors are those of :func:`explain`.
    """
    return explain(score, layer, image, average_gradient, relu=relu, as_map=as_map)


def average_gradient(features: Tensor, gradient: Tensor) -> Tensor:
    """Σ_i weight_i f_i, [B, h, w]; weight_i is the spatial mean of the gradient."""
    return (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)


def explain(
    score: Callable[[Tensor], Tensor],
    layer: nn.Module,
    image: Tensor,
    combine: Callable[[Tensor, Tensor], Tensor],
    *,
    relu: bool = True,
    as_map: Callable[[Tensor], Tensor] = lambda features: features,
) -> Tensor:
    """What Grad-CAM and its kin share: a layer's features and the gradients of scores there.

    One forward pass, and one backward pass per prompt from the score to the layer. Parameters
    get no gradients, and the hook is gone afterwards, even after an error.

    Args:
        score: maps the image to scores [B, P], running ``layer`` once on the way.
        layer: the module whose output is explained.
        image: [B, 3, height, width].
        combine: features and the gradient of one score, each [B, C, h, w] in float32, to a map
            [B, h, w]. The methods differ here alone.
        relu: cut off negative evidence, as the papers do.
        as_map: the layer's output, or its gradient, as [B, C, h, w]: a view of tokens as a map.

    Returns:
        [B, P, h, w], float32.

    Raises:
        UsageError: the layer is not run, or its output is no feature map.
    """
    seen: list[Tensor] = []

    def capture(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or as_map(output).ndim != 4:
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"layer: {type(layer).__name__} gives {found}; choose a layer that gives "
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
        raise UsageError(f"layer: {type(layer).__name__} takes no part in the score")
    leaf = seen[-1]
    features = as_map(leaf.detach()).float()
    maps = [combine(features, as_map(g).float()) for g in gradients(scores, leaf)]
    stacked = torch.stack(maps, dim=1)
    return stacked.relu() if relu else stacked


class Layered(Protocol):
    """A network whose scores and layers are reachable: a timm network or a CLIP ResNet."""

    @property
    def default_layer(self) -> str:
        """The last layer that gives features."""

    def layer(self, name: str, image: Tensor) -> nn.Module:
        """The module of this dotted name, in the network that runs this image."""

    def scores(self, image: Tensor, text: Tensor) -> Tensor:
        """Scores [B, P]."""

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Positions of the last layer."""

    def as_map(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """A layer's output as [B, C, h, w]."""


def gradcam_at(
    tower: Layered, image: Tensor, text: Tensor, *, layer: str | None = None, relu: bool = True
) -> Tensor:
    """Grad-CAM of a network's own score of each text, at one of its layers.

    Args:
        tower: the network.
        image: [B, 3, height, width].
        text: [P, E].
        layer: dotted name of a module; the last stage unless told otherwise.
        relu: cut off negative evidence, as the paper does.

    Returns:
        [B, P, h, w], float32.
    """
    return explain_at(tower, image, text, average_gradient, layer=layer, relu=relu)


def explain_at(
    tower: Layered,
    image: Tensor,
    text: Tensor,
    combine: Callable[[Tensor, Tensor], Tensor],
    *,
    layer: str | None = None,
    relu: bool = True,
) -> Tensor:
    """:func:`explain` of a network's own score of each text; see :func:`gradcam_at`."""
    grid = tower.grid(image)
    return explain(
        lambda x: tower.scores(x, text),
        tower.layer(layer or tower.default_layer, image),
        image,
        combine,
        relu=relu,
        as_map=lambda features: tower.as_map(features, grid),
    )


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
    with torch.no_grad():
        step = next(islice(tower.steps(image), block % count, None))
    with torch.set_grad_enabled(True):
        leaf = step.normed.clone().requires_grad_()
        x = tower.leave(tower.enter(step.block, step.x, leaf))
        for later in tower.blocks[block % count + 1 :]:
            x = tower.leave(tower.enter(later, x))
        pooled = F.normalize(tower.pooled(x).float(), dim=-1)
        scores = pooled @ F.normalize(text.detach().float(), dim=-1).T
    maps = []
    for gradient in gradients(scores, leaf):
        weight = gradient[:, 1:].float().mean(dim=1, keepdim=True)
        maps.append((weight * leaf.detach()[:, 1:].float()).sum(dim=-1))
    stacked = torch.stack(maps, dim=1).reshape(len(image), len(text), *grid)
    return stacked.relu() if relu else stacked


def gradients(scores: Tensor, features: Tensor) -> Iterator[Tensor]:
    """Gradient of each column of ``scores`` [B, P] with respect to ``features``, one by one.

    Images do not touch each other in evaluation mode, so a column is summed over the batch.
    """
    for p in range(scores.shape[1]):
        column = torch.zeros_like(scores)
        column[:, p] = 1
        yield from torch.autograd.grad(scores, features, column, retain_graph=True)
