"""Grad-CAM++: positions weigh by how their gradient grows.

Chattopadhay, Sarkar, Howlader, Balasubramanian, "Grad-CAM++: Generalized Gradient-based Visual
Explanations for Deep Convolutional Networks" (WACV 2018): weight_i = Σ α_i(x, y) ReLU(g_i(x, y))
(eq. 7) with α = g² / (2 g² + g³ Σ f) (eq. 19), for the score behind an exponential.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalecli.localize.gradcam import Layered, explain_at


def gradcam_pp(
    tower: Layered, image: Tensor, text: Tensor, *, layer: str | None = None, relu: bool = True
) -> Tensor:
    """Grad-CAM++ [B, P, h, w] of a network's own score of each text, at one of its layers.

    α depends on the scale of the score: logits and cosines give different maps.

    Args:
        tower: the network.
        image: [B, 3, height, width].
        text: [P, E].
        layer: dotted name of a module; the last stage unless told otherwise.
        relu: cut off negative evidence.
    """
    return explain_at(tower, image, text, growing_gradient, layer=layer, relu=relu)


def growing_gradient(features: Tensor, gradient: Tensor) -> Tensor:
    """Σ_i weight_i f_i, [B, h, w], of features and a gradient [B, C, h, w]."""
    squared = gradient.square()
    total = features.sum(dim=(2, 3), keepdim=True)
    below = 2 * squared + total * squared * gradient
    alpha = torch.where(below == 0, 0, squared / below)
    weight = (alpha * gradient.relu()).sum(dim=(2, 3), keepdim=True)
    return (weight * features).sum(dim=1)
