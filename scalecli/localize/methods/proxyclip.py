"""ProxyCLIP: a second encoder says which patches belong together, CLIP says what they are.

Lan, Chen, Ke, Wang, Feng, Zhang, "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary
Segmentation" (ECCV 2024): the last block attends by softmax over N_j of γ (cos_ij − β mean cos),
where cos are cosines between features of a self-supervised encoder such as DINO, and what is
below 0 is cut off; no residual, no MLP (authors' code: mc-lan/ProxyCLIP, β = 1.2, γ = 3).
CLIP's values are interpolated to the grid of the second encoder, and so are the maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.classifiers import build, input_spec, plan
from scalecli.localize.encoder import InputSpec
from scalecli.localize.methods import Method
from scalecli.localize.methods.surgery import with_surgery
from scalecli.localize.vit import Tower


@dataclass(frozen=True)
class Proxy:
    """A timm ViT that lends its affinity."""

    label: str
    """Its name and weights, for notes."""
    model: Any
    """Accepts images of any size that is a multiple of its patch."""
    patch: tuple[int, int]
    gain: Tensor
    """[3, 1, 1]: with ``shift``, from the pixels of the CLIP model to its own."""
    shift: Tensor

    def features(self, image: Tensor) -> Tensor:
        """Features [B, C, h, w] of CLIP's image, resized if its sides do not fit the patch."""
        size = tuple(
            max(1, round(s / p)) * p for s, p in zip(image.shape[-2:], self.patch, strict=True)
        )
        pixels = (image * self.gain + self.shift).to(self.gain)
        if size != tuple(image.shape[-2:]):
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        found: list[Tensor] = self.model.forward_intermediates(
            pixels, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return found[-1]


def load_proxy(
    name: str,
    pretrained: str,
    like: InputSpec,
    device: torch.device = torch.device("cpu"),
    dtype: torch.dtype = torch.float32,
) -> Proxy:
    """A timm ViT by name, for instance ``vit_base_patch8_224.dino``, which the authors take.

    Args:
        name: timm's name of it.
        pretrained: ``auto``, a tag, a checkpoint file, or ``none`` for random weights.
        like: how the images it will be given are normalised.
        device: where it runs.
        dtype: of its weights.

    Raises:
        UsageError: the name is unknown, or no ViT that takes images of any size.
        HubUnreachable: its weights are neither cached nor to be had.
    """
    made = plan(name, pretrained)
    try:
        model = build(made, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise UsageError(
            f"--proxy {name}: not a ViT for images of any size; try vit_base_patch8_224.dino"
        ) from error
    own = input_spec(model)
    mean, std = (torch.tensor(part)[:, None, None] for part in (own.mean, own.std))
    from_mean, from_std = (torch.tensor(part)[:, None, None] for part in (like.mean, like.std))
    return Proxy(
        label=made.label,
        model=model.to(device, dtype),
        patch=tuple(model.patch_embed.patch_size),
        gain=(from_std / std).to(device, dtype),
        shift=((from_mean - mean) / std).to(device, dtype),
    )


def proxyclip(
    tower: Tower,
    image: Tensor,
    text: Tensor,
    *,
    proxy: Proxy,
    beta: float = 1.2,
    gamma: float = 3.0,
) -> Tensor:
    """Cosines [B, P, h, w] on the grid of the second encoder, usually finer than CLIP's.

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        proxy: the second encoder.
        beta: how far above the mean cosine two patches must be to be joined, as a factor.
        gamma: inverse temperature of the attention.
    """
    step = tower.last(image)
    features = proxy.features(image)
    grid = (features.shape[-2], features.shape[-1])
    values = step.heads.v[:, :, 1:]
    batch, heads, _, width = values.shape
    planes = values.transpose(2, 3).reshape(batch, heads * width, *tower.grid(image))
    if grid != tower.grid(image):
        planes = F.interpolate(planes, size=grid, mode="bilinear", align_corners=False)
    joined = attention(features, beta, gamma).to(planes) @ planes.flatten(2).transpose(1, 2)
    attended = joined.reshape(batch, -1, heads, width).transpose(1, 2)
    return tower.patch_cosines(tower.out(step.block, attended), text, grid)


def attention(features: Tensor, beta: float, gamma: float) -> Tensor:
    """Proxy attention [B, N, N] of features [B, C, h, w]; every patch attends to itself."""
    patches = F.normalize(features.flatten(2).float(), dim=1)
    cosines = patches.transpose(1, 2) @ patches
    logits = gamma * (cosines - beta * cosines.mean(dim=(1, 2), keepdim=True))
    # On a plain image all cosines are near 1, below β times their mean: nothing would be left.
    alone = torch.eye(len(cosines[0]), dtype=torch.bool, device=cosines.device)
    return logits.masked_fill((logits < 0) & ~alone, -torch.inf).softmax(dim=-1)


def proxy_method(proxy: Proxy) -> Method:
    """The line for a table of methods."""
    return Method(
        partial(with_surgery(proxyclip), proxy=proxy),
        "values joined by a second encoder's affinity",
    )
