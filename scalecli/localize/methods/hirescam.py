"""HiResCAM: features times gradients, position by position, without averaging the gradients.

Draelos, Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks" (2020): heatmap = Σ_i g_i(x, y) f_i(x, y). Where the rest of the network is linear its sum
is the score less the bias. Without ReLU, as in the paper, it shows evidence against as well.
"""

from __future__ import annotations

from torch import Tensor

from scalecli.localize.gradcam import Layered, explain_at


def hirescam(
    tower: Layered, image: Tensor, text: Tensor, *, layer: str | None = None, relu: bool = True
) -> Tensor:
    """HiResCAM [B, P, h, w] of a network's own score of each text, at one of its layers.

    Args:
        tower: the network.
        image: [B, 3, height, width].
        text: [P, E].
        layer: dotted name of a module; the last stage unless told otherwise.
        relu: cut off negative evidence.
    """
    return explain_at(tower, image, text, own_gradient, layer=layer, relu=relu)


def own_gradient(features: Tensor, gradient: Tensor) -> Tensor:
    """Σ_i g_i f_i, [B, h, w], of features and a gradient [B, C, h, w]."""
    return (gradient * features).sum(dim=1)
