"""LayerCAM: every position has its own weight, so that early layers give fine maps.

Jiang, Zhang, Hou, Cheng, Wei, "LayerCAM: Exploring Hierarchical Class Activation Maps for
Localization" (IEEE TIP 2021): heatmap = ReLU(Σ_i ReLU(g_i(x, y)) f_i(x, y)).
"""

from __future__ import annotations

from torch import Tensor

from scalecli.localize.gradcam import Layered, explain_at


def layercam(
    tower: Layered, image: Tensor, text: Tensor, *, layer: str | None = None, relu: bool = True
) -> Tensor:
    """LayerCAM [B, P, h, w] of a network's own score of each text, at one of its layers.

    Args:
        tower: the network.
        image: [B, 3, height, width].
        text: [P, E].
        layer: dotted name of a module; the last stage unless told otherwise.
        relu: cut off negative evidence.
    """
    return explain_at(tower, image, text, positive_gradient, layer=layer, relu=relu)


def positive_gradient(features: Tensor, gradient: Tensor) -> Tensor:
    """Σ_i ReLU(g_i) f_i, [B, h, w], of features and a gradient [B, C, h, w]."""
    return (gradient.relu() * features).sum(dim=1)
