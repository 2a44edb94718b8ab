"""An open_clip ModifiedResNet taken apart: its attention pool rebuilt to keep every position.

The pool is functional inside (``F.multi_head_attention_forward``), so nothing of it can be hooked.
Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021),
section 2.4: attention of the spatial mean over all positions; here every position asks as well.

The pool looks like the last block of a ViT (:class:`scalecli.localize.vit.Step`), whose methods
without residual and MLP apply to it: the first token is the mean in place of the class token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError
from scalecli.localize.one_pass import OnePass
from scalecli.localize.vit import Heads, Step, resample_positions, split_heads


class ResNetTower:
    """The image tower of an open_clip model whose ``visual`` is a ``ModifiedResNet``.

    Args:
        visual: ``model.visual``, in evaluation mode.

    Raises:
        UsageError: the tower is of another kind.
    """

    patch: tuple[int, int] = (32, 32)
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
    default_layer = "layer4"

    def __init__(self, visual: Any) -> None:
        if not hasattr(visual, "attnpool") or not hasattr(visual, "layer4"):
            raise UsageError(f"this tower is a {type(visual).__name__}, not a CLIP ResNet")
        if visual.training:
            raise ValueError("the tower is in training mode; call model.eval() first")
        self.visual = visual
        self.pool: Any = visual.attnpool
        side = round((len(self.pool.positional_embedding) - 1) ** 0.5)
        self.trained_grid: tuple[int, int] = (side, side)
        self._pass = OnePass()

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Positions (gh, gw) of an image batch [B, 3, height, width].

        Raises:
            UsageError: the sides are not multiples of 32.
        """
        height, width = image.shape[-2:]
        if height % 32 or width % 32 or not height or not width:
            raise UsageError(f"image of {height}×{width}: sides must be multiples of 32×32")
        return height // 32, width // 32

    def shared(self, image: Tensor) -> AbstractContextManager[None]:
        """Within it the features of ``image`` are computed once: :meth:`OnePass.shared`."""
        return self._pass.shared(image)

    def features(self, image: Tensor) -> Tensor:
        """Features [B, D, gh, gw] entering the pool."""
        return self._pass.features(image, self._features)

    def _features(self, image: Tensor) -> Tensor:
        self.grid(image)
        x = self.visual.stem(image.to(self.visual.conv1.weight.dtype))
        for name in self.layers:
            x = getattr(self.visual, name)(x)
        found: Tensor = x
        return found

    def enter(self, features: Tensor) -> Step:
        """Tokens of features [B, D, gh, gw], their mean first, with queries, keys and values."""
        tokens = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        grid = (features.shape[-2], features.shape[-1])
        learned = resample_positions(self.pool.positional_embedding, self.trained_grid, grid)
        x = tokens + learned.to(tokens.dtype)
        projections = (self.pool.q_proj, self.pool.k_proj, self.pool.v_proj)
        heads = Heads(*(split_heads(p(x), self.pool.num_heads) for p in projections))
        return Step(self.pool, x, x, heads)

    def last(self, image: Tensor) -> Step:
        """The pool, entered but not left."""
        return self.enter(self.features(image))

    def out(self, block: Any, values: Tensor) -> Tensor:
        """Attended values [B, H, T, d] in the joint space, [B, T, E]."""
        joint: Tensor = block.c_proj(values.transpose(1, 2).flatten(2))
        return joint

    def leave(self, step: Step) -> Tensor:
        """Joint embeddings [B, T, E] of the mean and of every position."""
        return self.out(step.block, F.scaled_dot_product_attention(*step.heads))

    def tokens(self, image: Tensor) -> Tensor:
        """Joint embeddings [B, T, E] of the mean and of every position."""
        return self.leave(self.last(image))

    def cosines(self, tokens: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cosines [B, P, gh, gw] of joint embeddings [B, T, E] with texts, without the mean's."""
        patches = F.normalize(tokens[:, 1:].float(), dim=-1)
        similar = F.normalize(text.float(), dim=-1) @ patches.transpose(1, 2)
        return similar.reshape(*similar.shape[:2], *grid)

    def scores(self, image: Tensor, text: Tensor) -> Tensor:
        """Cosines [B, P] of whole images with texts [P, E], float32."""
        # The mean alone asks: one query instead of one for every position.
        step = self.last(image)
        pooled = F.scaled_dot_product_attention(step.heads.q[:, :, :1], *step.heads[1:])
        joint = F.normalize(self.out(step.block, pooled)[:, 0].float(), dim=-1)
        return joint @ F.normalize(text.float(), dim=-1).T

    def layer(self, name: str, image: Tensor) -> nn.Module:
        """The module of this dotted name.

        Raises:
            UsageError: there is none.
        """
        del image  # the same network serves all sizes
        try:
            module: nn.Module = self.visual.get_submodule(name)
        except AttributeError as error:
            raise UsageError(
                f"layer '{name}': there is none; stages: {', '.join(self.layers)}; "
                "any other module can be named too"
            ) from error
        return module

    def as_map(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features of any layer as [B, C, h, w], which they are."""
        del grid
        return features

    def prefixes(self) -> Iterator[ResNetTower]:
        """Nothing: earlier layers have other widths, which the pool cannot read."""
        return iter(())
