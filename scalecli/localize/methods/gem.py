"""GEM, exactly as its authors code it (WalBouss/GEM, package gem_torch 1.0.1).

Bousselham, Petersen, Ferrari, Kuehne, "Grounding Everything: Emerging Localization Properties in
Vision-Language Transformers" (CVPR 2024). Two streams: the ordinary one is left as it is; the GEM
stream starts as its copy at the first of the last blocks and collects each block's self-self
attention, with the residual and without the MLP. Each block reads the *ordinary* stream.
"""

from __future__ import annotations

from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.methods.self_self import ensemble, inverse_temperature
from scalecli.localize.vit import Tower


def gem_tokens(
    tower: Tower,
    image: Tensor,
    *,
    blocks: int = 6,
    iterations: int = 1,
    temperature: float | None = None,
) -> Tensor:
    """The GEM stream [B, T, D] after the last block, before ``ln_post``; see :func:`gem`."""
    if not 1 <= blocks <= len(tower.blocks):
        raise UsageError(f"blocks: {blocks} is outside 1…{len(tower.blocks)} of this tower")
    first = tower.blocks[-blocks]
    stream: Tensor | None = None
    for step in tower.steps(image):
        if step.block is first:
            stream = step.x
        if stream is not None:
            beta = inverse_temperature(step) if temperature is None else temperature
            stream = stream + tower.out(step.block, ensemble(step.heads, beta, iterations))
    assert stream is not None
    return stream


def gem(
    tower: Tower,
    image: Tensor,
    text: Tensor,
    *,
    blocks: int = 6,
    iterations: int = 1,
    temperature: float | None = None,
) -> Tensor:
    """Cosines [B, P, gh, gw] of the GEM stream with texts [P, E].

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        blocks: how many last blocks take part. The authors' depth of 7 is 6 blocks.
        iterations: rounds of self-self attention before values are attended.
        temperature: the authors' *inverse* temperature β; by default adaptive, per image and
            block.
    """
    tokens = gem_tokens(tower, image, blocks=blocks, iterations=iterations, temperature=temperature)
    return tower.cosines(tokens, text, tower.grid(image))
