"""The last block with something else in place of its attention: the visible common part.

Query–key attention of the last block serves the class token; for patches it mixes in what is far
away. These methods keep the tower as it is up to the last block and differ in one function there,
which says what values each token ends up with:

==============  =========================================  ========================
method          attended values                            residual and MLP
==============  =========================================  ========================
``maskclip``    v                                          dropped
``self-self``   mean over p ∈ {q, k, v} of clustered p p̂ᵀ  dropped
``clearclip``   softmax(q qᵀ / √d) v                       dropped
``naclip``      softmax(k kᵀ / √d + Gaussian) v            dropped
``pearl``       softmax(q (k R)ᵀ / √d + …) v               dropped
``resclip``     naclip's, with attention of middle blocks  dropped
``sclip``       softmax(q qᵀ / √d) v + softmax(k kᵀ …) v   kept
==============  =========================================  ========================
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from scalecli.localize.vit import Step, Tower

Attend = Callable[[Step, tuple[int, int]], Tensor]
"""The last block, entered, and the grid (gh, gw) → attended values [B, H, T, d]."""


def last_block(
    tower: Tower, image: Tensor, text: Tensor, attend: Attend, *, residual: bool = False
) -> Tensor:
    """Cosines [B, P, gh, gw] of patches with texts [P, E] when the last block attends as told.

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        attend: the values in place of those of the block's own attention.
        residual: keep the residual connection and the MLP of the block.
    """
    step, grid = tower.last(image), tower.grid(image)
    values = attend(step, grid)
    tokens = tower.leave(step, values) if residual else tower.out(step.block, values)
    return tower.cosines(tokens, text, grid)
