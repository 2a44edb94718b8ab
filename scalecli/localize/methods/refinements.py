"""What may follow any method: maps brought to the size of the image and refined along its edges.

Each takes (image [B, 3, height, width], maps [B, P, any, any] of all prompts, text [P, E]) and
gives [B, P, height, width]. They are reported apart from methods: they help all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from scalecli.localize.methods import laplacian, pamr

Refine = Callable[[Tensor, Tensor, Tensor], Tensor]

REFINEMENTS: Mapping[str, Refine] = {
    "pamr": lambda image, maps, _text: pamr.refine(image, maps),
    "laplacian": laplacian.refine,
}
