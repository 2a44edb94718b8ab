"""Features of one image, computed once for all who ask while a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class OnePass:
    """Remembers one tensor's features, within :meth:`shared` only."""

    def __init__(self) -> None:
        self._image: Tensor | None = None
        self._features: Tensor | None = None

    @contextmanager
    def shared(self, image: Tensor) -> Iterator[None]:
        """Within this context the features of ``image`` are computed once, whoever asks.

        Only for this very tensor: another one, equal or not, is computed as ever.
        """
        before = self._image, self._features
        if self._image is not image:
            self._image, self._features = image, None
        try:
            yield
        finally:
            self._image, self._features = before

    def features(self, image: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """``compute(image)``, or what it gave before.

        Who wants gradients gets a pass of its own: it reads layers on the way, through hooks.
        """
        if self._image is not image or torch.is_grad_enabled():
            return compute(image)
        if self._features is None:
            self._features = compute(image)
        return self._features
