"""Score-CAM: features weigh by the score of the image seen through them; no gradients.

Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks"
(CVPR Workshops 2020), algorithm 1: each feature map, upsampled and min–max normalised, is a mask;
weight_i = softmax over i of the score of the masked image; heatmap = ReLU(Σ_i weight_i f_i). The
score of the baseline, an image of zeros after normalisation, is the same for all i and falls out
of the softmax.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError
from scalecli.localize.gradcam import Layered


def scorecam(
    tower: Layered,
    image: Tensor,
    text: Tensor,
    *,
    layer: str | None = None,
    relu: bool = True,
    batch: int = 32,
) -> Tensor:
    """Score-CAM [B, P, h, w] of a network's own score of each text, at one of its layers.

    As many passes as the layer has channels, for all prompts together.

    Args:
        tower: the network.
        image: [B, 3, height, width].
        text: [P, E].
        layer: dotted name of a module; the last stage unless told otherwise.
        relu: cut off negative evidence.
        batch: masked images per pass.
    """
    if batch < 1:
        raise UsageError(f"batch: {batch} masked images per pass; it must be at least 1")
    module = tower.layer(layer or tower.default_layer, image)
    with torch.no_grad():
        features = tower.as_map(output(tower, module, image, text), tower.grid(image)).float()
        if features.ndim != 4:
            raise UsageError(
                f"layer: {type(module).__name__} gives {list(features.shape)}; choose a layer "
                "that gives features [B, C, h, w]"
            )
        masks = F.interpolate(features, size=image.shape[-2:], mode="bilinear", align_corners=True)
        low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
        masks = ((masks - low) / (high - low + 1e-8)).to(image)
        scores = torch.stack(
            [
                torch.cat([tower.scores(one * part, text) for part in mask[:, None].split(batch)])
                for one, mask in zip(image, masks, strict=True)
            ]
        )
        maps = torch.einsum("bcp,bchw->bphw", scores.softmax(dim=1), features)
    return maps.relu() if relu else maps


def output(tower: Layered, module: nn.Module, image: Tensor, text: Tensor) -> Tensor:
    """What a module gives on the way from the image to its scores.

    Raises:
        UsageError: the module takes no part in them.
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, given: Tensor) -> None:
        # A copy, because the next layer may work in place.
        seen.append(given.clone())

    handle = module.register_forward_hook(keep)
    try:
        tower.scores(image, text)
    finally:
        handle.remove()
    if not seen:
        raise UsageError(f"layer: {type(module).__name__} takes no part in the score")
    return seen[-1]
