"""CAM: a network that averages its last features and applies one linear layer shows where.

Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization"
(CVPR 2016): heatmap(c) = Σ_i W(c)_i f_i(x, y).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError


def class_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Maps [B, P, h, w] of features [B, C, h, w] under classifier vectors [P, C]."""
    return torch.einsum("bchw,pc->bphw", features.float(), weight.float())


def cam(model: nn.Module, image: Tensor, classes: Tensor) -> Tensor:
    """CAM of a timm CNN classifier with global average pooling and one linear layer.

    Args:
        model: a timm classifier in evaluation mode.
        image: [B, 3, height, width].
        classes: class indices [P].

    Returns:
        [B, P, h, w], float32, signed; the bias is left out.

    Raises:
        UsageError: the head is not average pooling and one linear layer.
    """
    with torch.no_grad():
        features, linear = gap_head(model, image)
        return class_maps(features, linear.weight[classes])


def gap_head(model: Any, image: Tensor) -> tuple[Tensor, nn.Linear]:
    """Last features [B, C, h, w] and the linear layer applied to their spatial mean.

    Whether that *is* the head is tested on the features themselves, so a network with a hidden
    layer, a norm or another pooling is refused rather than drawn wrongly.

    Raises:
        UsageError: it is not.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    name = type(model).__name__
    refusal = f"cam needs average pooling and one linear layer, which {name} has not; use gradcam"
    if not hasattr(model, "forward_features") or not hasattr(model, "get_classifier"):
        raise UsageError(f"{name} is not a timm classifier; use gradcam with one of its layers")
    linear = model.get_classifier()
    features = model.forward_features(image)
    if not isinstance(linear, nn.Linear) or not isinstance(features, Tensor):
        raise UsageError(refusal)
    if features.ndim != 4 or features.shape[1] != linear.in_features:
        raise UsageError(refusal)
    with torch.no_grad():
        own = model.forward_head(features)
        ours = F.linear(features.mean(dim=(2, 3)), linear.weight, linear.bias)
        tolerance = 1e-3 if features.dtype == torch.float32 else 5e-2
        if not torch.allclose(own, ours, rtol=tolerance, atol=tolerance * float(own.abs().max())):
            raise UsageError(refusal)
    return features, linear
