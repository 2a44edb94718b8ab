"""Blocks that authors name for a tower of 12, in a tower of any depth."""

from __future__ import annotations

from scalecli.core.errors import UsageError
from scalecli.localize.vit import Tower


def blocks_before(tower: Tower, of_twelve: int) -> int:
    """How many blocks to pass so as to be as deep as after ``of_twelve`` of 12.

    Rounded to the nearest, at least one, and never the last block. Exact for a tower of 12, the
    ViT-B that the authors tuned their choice on.

    Raises:
        UsageError: the tower has one block only.
    """
    count = len(tower.blocks)
    if count < 2:
        raise UsageError("this method reads blocks before the last; the tower has only one")
    return min(max(1, (of_twelve * count + 6) // 12), count - 1)
