"""An open_clip ViT taken apart: tokens, blocks, heads and projection as plain functions.

Nothing is hooked and nothing is called through ``nn.MultiheadAttention``: q, k, v come from
``ln_1`` by ``F.linear`` and ``out_proj`` is applied here. That holds in every open_clip from 2.26
(batch-first attention, fused fast path) on, where hooks on ``attn.out_proj`` never fire and code
written for sequence-first tokens silently attends over the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError


class Heads(NamedTuple):
    """Queries, keys and values of one block, each [B, H, T, d]."""

    q: Tensor
    k: Tensor
    v: Tensor


class Step(NamedTuple):
    """One block on its way: its module, what enters it, and what its attention reads."""

    block: Any
    x: Tensor
    """Residual stream entering the block, [B, T, D]."""
    normed: Tensor
    """``ln_1(x)``, [B, T, D]."""
    heads: Heads


class _Replay:
    """The steps of one image: taken from ``source`` when first asked for, then remembered."""

    def __init__(self, image: Tensor, source: Iterator[Step]) -> None:
        self.image = image
        self.source = source
        self.seen: list[Step] = []

    def __iter__(self) -> Iterator[Step]:
        index = 0
        while index < len(self.seen) or self._advance():
            yield self.seen[index]
            index += 1

    def _advance(self) -> bool:
        # Without a graph: who needs gradients starts one at the step it reads.
        with torch.no_grad():
            step = next(self.source, None)
        if step is not None:
            self.seen.append(step)
        return step is not None


class Tower:
    """The image tower of an open_clip model whose ``visual`` is a native ``VisionTransformer``.

    Args:
        visual: ``model.visual``, in evaluation mode.

    Raises:
        UsageError: the tower is of another kind, and which one.
    """

    def __init__(self, visual: Any) -> None:
        _check(visual)
        self.visual = visual
        self.blocks: list[Any] = list(visual.transformer.resblocks)
        self.patch: tuple[int, int] = tuple(visual.conv1.kernel_size)
        self.trained_grid: tuple[int, int] = tuple(visual.grid_size)
        self._replay: _Replay | None = None

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Patches (gh, gw) of an image batch [B, 3, height, width].

        Raises:
            UsageError: the sides are not multiples of the patch.
        """
        (height, width), (ph, pw) = image.shape[-2:], self.patch
        if height % ph or width % pw or not height or not width:
            raise UsageError(f"image of {height}×{width}: sides must be multiples of {ph}×{pw}")
        return height // ph, width // pw

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Positional embeddings [1 + gh·gw, D] on any grid: bicubic, antialias, exact size."""
        return resample_positions(self.visual.positional_embedding, self.trained_grid, grid)

    def embed(self, image: Tensor) -> Tensor:
        """Tokens [B, T, D] entering the first block, from an image [B, 3, height, width]."""
        grid = self.grid(image)
        patches = self.visual.conv1(image.to(self.visual.conv1.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)
        cls = self.visual.class_embedding.to(patches.dtype).expand(len(image), 1, -1)
        tokens = torch.cat([cls, patches], dim=1) + self.positions(grid).to(patches.dtype)
        return _tensor(self.visual.ln_pre(tokens))

    def enter(self, block: Any, x: Tensor, normed: Tensor | None = None) -> Step:
        """Norm and q, k, v of one block on the stream ``x`` [B, T, D].

        Args:
            block: one of :attr:`blocks`.
            x: residual stream entering it.
            normed: use this in place of ``ln_1(x)``, for gradients with respect to it.
        """
        normed = _tensor(block.ln_1(x)) if normed is None else normed
        joint = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)
        q, k, v = (split_heads(part, block.attn.num_heads) for part in joint.chunk(3, dim=-1))
        return Step(block, x, normed, Heads(q, k, v))

    def out(self, block: Any, values: Tensor) -> Tensor:
        """Attended values [B, H, T, d] through ``out_proj`` and layer scale: [B, T, D]."""
        return _tensor(block.ls_1(block.attn.out_proj(values.transpose(1, 2).flatten(2))))

    def leave(self, step: Step, values: Tensor | None = None) -> Tensor:
        """The block's attention, residual and MLP: the stream [B, T, D] for the next block.

        Args:
            step: the block, entered.
            values: attended values [B, H, T, d] in place of those of its own attention.
        """
        block = step.block
        if values is None:
            values = F.scaled_dot_product_attention(*step.heads)
        x = step.x + self.out(block, values)
        return _tensor(x + block.ls_2(block.mlp(block.ln_2(x))))

    @contextmanager
    def shared(self, image: Tensor) -> Iterator[None]:
        """Within this context the blocks of ``image`` are computed once, whoever asks.

        Only for this very tensor: another one, equal or not, is computed as ever. Holds about
        five streams [B, T, D] per block until the context ends.
        """
        before = self._replay
        if before is None or before.image is not image:
            self._replay = _Replay(image, self._walk(image))
        try:
            yield
        finally:
            self._replay = before

    def steps(self, image: Tensor) -> Iterator[Step]:
        """Every block in order on the ordinary stream; a block is left only when asked on."""
        if self._replay is not None and self._replay.image is image:
            return islice(self._replay, len(self.blocks))
        return self._walk(image)

    def _walk(self, image: Tensor) -> Iterator[Step]:
        x = self.embed(image)
        for index, block in enumerate(self.blocks):
            step = self.enter(block, x)
            yield step
            if index + 1 < len(self.blocks):
                x = self.leave(step)

    def last(self, image: Tensor) -> Step:
        """The last block, entered but not left."""
        *_, step = self.steps(image)
        return step

    def tokens(self, image: Tensor) -> Tensor:
        """Tokens [B, T, D] after the last block."""
        return self.leave(self.last(image))

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T, D] in the joint space: ``ln_post``, then ``@ proj``; [B, T, E]."""
        return self._to_joint(self.visual.ln_post(tokens))

    def pooled(self, tokens: Tensor) -> Tensor:
        """The image embedding [B, E] of tokens [B, T, D], as the model's own forward pools."""
        first = not self.visual.final_ln_after_pool
        x = self.visual.ln_post(tokens) if first else tokens
        x = x[:, 0] if self.visual.pool_type == "tok" else x[:, 1:].mean(dim=1)
        return self._to_joint(x if first else self.visual.ln_post(x))

    def cosines(self, tokens: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cosine of every projected patch of ``tokens`` [B, T, D] with every text [P, E].

        Returns:
            [B, P, gh, gw], float32; the class token is dropped.
        """
        return self.patch_cosines(tokens[:, 1:], text, grid)

    def patch_cosines(self, patches: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """:meth:`cosines` of ``patches`` [B, gh·gw, D] that come without a class token."""
        joint = F.normalize(self.project(patches).float(), dim=-1)
        similar = F.normalize(text.float(), dim=-1) @ joint.transpose(1, 2)
        return similar.reshape(*similar.shape[:2], *grid)

    def scores(self, image: Tensor, text: Tensor) -> Tensor:
        """Cosines [B, P] of whole images with texts [P, E], float32."""
        pooled = F.normalize(self.pooled(self.tokens(image)).float(), dim=-1)
        return pooled @ F.normalize(text.float(), dim=-1).T

    @property
    def layers(self) -> tuple[str, ...]:
        """``block 1`` and so on."""
        return tuple(f"block {i + 1}" for i in range(len(self.blocks)))

    def prefixes(self) -> Iterator[Tower]:
        """The tower ended after each block, with all its weights shared."""
        for count in range(1, len(self.blocks) + 1):
            part = copy.copy(self)
            part.blocks = self.blocks[:count]
            yield part

    def _to_joint(self, x: Tensor) -> Tensor:
        return x if self.visual.proj is None else _tensor(x @ self.visual.proj)


def resample_positions(
    learned: Tensor, trained_grid: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Learned positions [1 + gh·gw, D] on another grid: bicubic, antialias, exact size.

    The first row, which belongs to no patch, is kept.
    """
    if grid == trained_grid:
        return learned
    first, patches = learned[:1], learned[1:]
    image = patches.float().reshape(1, *trained_grid, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, resized.flatten(2)[0].T.to(learned.dtype)])


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, D] → [B, H, T, d]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _tensor(x: Any) -> Tensor:
    """A module's output as what it is: ``Any`` ends here."""
    assert isinstance(x, Tensor)
    return x


def _check(visual: Any) -> None:
    kind = type(visual).__name__
    if hasattr(visual, "trunk"):
        raise UsageError(
            f"this tower is timm's {type(visual.trunk).__name__}; "
            "the ViT methods need one of open_clip's own ViTs, such as ViT-B-16"
        )
    if not hasattr(visual, "transformer") or not hasattr(visual, "class_embedding"):
        raise UsageError(
            f"this tower is a {kind}, not a ViT; use cam or gradcam, or a model such as ViT-B-16"
        )
    if visual.attn_pool is not None:
        raise UsageError("this ViT pools by attention (CoCa); its patches have no text space")
    if visual.pool_type not in ("tok", "avg"):
        raise UsageError(f"this ViT pools by '{visual.pool_type}'; expected 'tok' or 'avg'")
    for block in visual.transformer.resblocks:
        if not isinstance(block.attn, nn.MultiheadAttention):
            raise UsageError(
                f"this ViT has custom attention ({type(block.attn).__name__}); use gradcam"
            )
    if visual.training:
        raise ValueError("the tower is in training mode; call model.eval() first")
