"""Random images, as the article feeds them, or without their cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from scalecli.bench.config import BenchConfig, RungConfig

POOL = 256
"""Images of the pregenerated pool."""


class Images(IterableDataset[tuple[torch.Tensor, int]]):
    """An endless stream of (image [3, S, S], label)."""

    def __init__(self, size: int, classes: int, *, pooled: bool, seed: int) -> None:
        self.size = size
        self.classes = classes
        generator = torch.Generator().manual_seed(seed)
        count = POOL if pooled else 0
        self.pool_P3SS = torch.randn(count, 3, size, size, generator=generator)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        """Images drawn one by one, or the pool round and round."""
        index = 0
        while True:
            if len(self.pool_P3SS):
                image = self.pool_P3SS[index % POOL]
            else:
                image = torch.randn(3, self.size, self.size)
            yield image, index % self.classes
            index += 1


def batches(bench: BenchConfig, rung: RungConfig, *, pin: bool) -> DataLoader[Any]:
    """The loader of a rung, on the host."""
    assert bench.image_size is not None
    assert bench.num_classes is not None
    images = Images(
        bench.image_size, bench.num_classes, pooled=bench.data == "pregenerated", seed=bench.seed
    )
    prefetch = rung.loader_prefetch if rung.num_workers else None
    return DataLoader(
        images,
        batch_size=rung.batch_size,
        num_workers=rung.num_workers,
        prefetch_factor=prefetch,
        drop_last=True,
        pin_memory=pin,
    )
