"""A timm network taken apart: SigLIP, EVA, ConvNeXt-CLIP, MobileCLIP, and plain classifiers.

One rule serves them all: a position's embedding is what the network's own pooling and head make
of that position *alone*. For SigLIP's latent attention pool that is the value half of ``kv``,
``proj``, then ``+ mlp(norm(·))``, since a softmax over one key is 1; for average pooling before a
linear layer it is CAM; for a class token it is the final norm and the head.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError
from scalecli.localize.one_pass import OnePass

LAST = "features"
"""The layer that is what the head reads."""


class TimmTower:
    """A timm network and what follows it.

    Args:
        trunk: a timm model in evaluation mode.
        head: what follows the trunk's pooling, [N, C'] → [N, E].
        pre_logits: leave out the trunk's own last linear layer.
        unit: scores are cosines; otherwise inner products, as logits are.
    """

    def __init__(
        self,
        trunk: Any,
        head: Callable[[Tensor], Tensor] = lambda pooled: pooled,
        *,
        pre_logits: bool = False,
        unit: bool = True,
    ) -> None:
        if trunk.training:
            raise ValueError("the network is in training mode; call eval() first")
        name = type(trunk).__name__
        if not all(hasattr(trunk, f) for f in ("forward_features", "forward_head", "feature_info")):
            raise UsageError(f"{name} is not laid out as timm's networks are; nothing applies")
        self.trunk, self.head, self.pre_logits, self.unit = trunk, head, pre_logits, unit
        self.tap = nn.Identity()  # a module whose output is what the head reads, for hooks
        self.prefix = int(getattr(trunk, "num_prefix_tokens", 0))
        self.channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        reduction = int(trunk.feature_info[-1]["reduction"])
        self.patch: tuple[int, int] = (reduction, reduction)
        self.depth: int | None = None
        self._sized: dict[tuple[int, int], Any] = {}
        self._pass = OnePass()

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Positions (gh, gw) of an image batch [B, 3, height, width].

        Raises:
            UsageError: the sides are not multiples of the patch.
        """
        (height, width), (ph, pw) = image.shape[-2:], self.patch
        if height % ph or width % pw or not height or not width:
            raise UsageError(f"image of {height}×{width}: sides must be multiples of {ph}×{pw}")
        return height // ph, width // pw

    def at(self, size: tuple[int, int]) -> Any:
        """The trunk for images of this size (height, width); the model itself stays as it is.

        Where the positions are learned for one size, a copy is resized that shares every other
        weight with the model.

        Raises:
            UsageError: the network runs at its own size only.
        """
        own = getattr(getattr(self.trunk, "patch_embed", None), "img_size", None)
        if own is None or tuple(own) == size:
            return self._ended(self.trunk)
        if size not in self._sized:
            if not hasattr(self.trunk, "set_input_size"):
                raise self._one_size()
            shared = [*self.trunk.parameters(), *self.trunk.buffers()]
            clone = copy.deepcopy(self.trunk, {id(t): t for t in shared})
            clone.set_input_size(img_size=size)
            self._sized.clear()  # a run has one size, or sorts its images by size
            self._sized[size] = clone.eval()
        return self._ended(self._sized[size])

    def shared(self, image: Tensor) -> AbstractContextManager[None]:
        """Within it the features of ``image`` are computed once: :meth:`OnePass.shared`."""
        return self._pass.shared(image)

    def features(self, image: Tensor) -> Tensor:
        """What the head reads: [B, C, h, w], [B, h, w, C] or tokens [B, T, D]."""
        return self._pass.features(image, self._features)

    def _features(self, image: Tensor) -> Tensor:
        self.grid(image)
        size = (image.shape[-2], image.shape[-1])
        trunk = self.at(size)
        try:
            found: Tensor = trunk.forward_features(image)
        except (AssertionError, RuntimeError) as error:
            # timm's networks that serve one size only say so in many ways.
            if size == self._own_size() or isinstance(error, torch.OutOfMemoryError):
                raise
            raise self._one_size() from error
        return _tensor(self.tap(found))

    def pooled(self, features: Tensor) -> Tensor:
        """Embeddings [N, E] of features as the model itself pools them."""
        kwargs = {"pre_logits": True} if self.pre_logits else {}
        return self.head(self.trunk.forward_head(features, **kwargs))

    def alone(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Embeddings [B, h, w, E]: each position through the model's pooling and head alone."""
        maps = self.as_map(features, grid)
        batch, channels, h, w = maps.shape
        rows = maps.permute(0, 2, 3, 1).reshape(-1, channels)
        if features.ndim == 4:
            single = rows[:, None, None] if self.channels_last else rows[..., None, None]
        else:
            # In every token's place, so that whichever the head pools, it is this one.
            single = rows[:, None].expand(-1, 1 + self.prefix, -1)
        return self.pooled(single).reshape(batch, h, w, -1)

    def as_map(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features of any layer as [B, C, h, w]; tokens are laid on the grid."""
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if self.channels_last else features
        if features.ndim != 3 or features.shape[1] != self.prefix + grid[0] * grid[1]:
            return features
        patches = features[:, self.prefix :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *grid)

    @functools.cached_property
    def additive(self) -> bool:
        """Whether the mean of what each position says alone is what the network says.

        So it is for average pooling before linear layers; tested on features drawn at random.
        """
        generator = torch.Generator().manual_seed(0)
        weight = next(self.trunk.parameters())
        channels, tokens = int(self.trunk.num_features), 4 + self.prefix
        transformer = self._transformer()
        shape = (2, tokens, channels) if transformer else (2, channels, 2, 2)
        drawn = torch.randn(shape, generator=generator).to(weight.device, weight.dtype)
        if self.channels_last and not transformer:
            drawn = drawn.permute(0, 2, 3, 1)
        with torch.no_grad():
            alone = self.alone(drawn, (2, 2)).float().mean(dim=(1, 2))
            pooled = self.pooled(drawn).float()
        tolerance = 1e-3 if weight.dtype == torch.float32 else 5e-2
        return float((alone - pooled).abs().max()) < tolerance * float(pooled.abs().max())

    def similar(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Scores [..., P] of embeddings [..., E] with texts [P, E]: cosines or logits."""
        embeddings, text = embeddings.float(), text.float()
        if self.unit:
            embeddings, text = F.normalize(embeddings, dim=-1), F.normalize(text, dim=-1)
        return embeddings @ text.T

    def scores(self, image: Tensor, text: Tensor) -> Tensor:
        """Scores [B, P] of whole images, float32."""
        return self.similar(self.pooled(self.features(image)), text)

    def patch_scores(self, image: Tensor, text: Tensor) -> Tensor:
        """Scores [B, P, gh, gw] of every position alone, float32."""
        alone = self.alone(self.features(image), self.grid(image))
        return self.similar(alone, text).permute(0, 3, 1, 2)

    @property
    def layers(self) -> tuple[str, ...]:
        """Modules to look at, in order; the last of them is what the head reads."""
        if self._transformer():
            # A block's first norm: after the last attention a class token alone has a gradient.
            return tuple(f"blocks.{i}.norm1" for i in range(len(self.trunk.blocks)))
        names = [info["module"] for info in self.trunk.feature_info]
        if self.trunk.feature_info[-1]["num_chs"] == self.trunk.num_features:
            names.pop()
        return (*names, LAST)

    def layer(self, name: str, image: Tensor) -> nn.Module:
        """The module of this dotted name in the trunk that runs this image.

        Raises:
            UsageError: there is none.
        """
        if name == LAST:
            return self.tap
        try:
            module: nn.Module = self.at((image.shape[-2], image.shape[-1])).get_submodule(name)
        except AttributeError as error:
            raise UsageError(
                f"layer '{name}': there is none; stages: {', '.join(self.layers)}; "
                "any other module can be named too"
            ) from error
        return module

    @property
    def default_layer(self) -> str:
        """Where gradients are read unless told otherwise."""
        return self.layers[-1]

    def prefixes(self) -> Iterator[TimmTower]:
        """The network ended after each block, for transformers; empty for CNNs."""
        if not self._transformer():
            return
        for count in range(1, len(self.trunk.blocks) + 1):
            part = copy.copy(self)
            part.depth = count
            part._pass = OnePass()
            yield part

    def _ended(self, trunk: Any) -> Any:
        """The trunk with its first :attr:`depth` blocks, sharing every module."""
        if self.depth is None:
            return trunk
        short = copy.copy(trunk)
        short._modules = {**trunk._modules, "blocks": trunk.blocks[: self.depth]}
        return short

    def _own_size(self) -> tuple[int, int]:
        height, width = self.trunk.pretrained_cfg["input_size"][-2:]
        return int(height), int(width)

    def _one_size(self) -> UsageError:
        height, width = self._own_size()
        kind = type(self.trunk).__name__
        return UsageError(f"{kind} runs at its own size only; use --size {height}x{width}")

    def _transformer(self) -> bool:
        blocks = getattr(self.trunk, "blocks", None)
        return blocks is not None and len(blocks) > 0 and hasattr(blocks[0], "attn")


def _tensor(x: Any) -> Tensor:
    """A module's output as what it is: ``Any`` ends here."""
    assert isinstance(x, Tensor)
    return x
