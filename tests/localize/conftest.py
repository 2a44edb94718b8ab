from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from scalecli.localize.vit import Tower

WIDTH, HEAD, LAYERS, PATCH, SIDE, JOINT = 64, 16, 8, 8, 32, 24


def small_clip(*, size: int | tuple[int, int] = SIDE, seed: int = 0, **vision: Any) -> Any:
    """A small CLIP with no weight at its initial zero or one, in evaluation mode."""
    torch.manual_seed(seed)
    model: Any = CLIP(
        embed_dim=JOINT,
        vision_cfg={
            "layers": LAYERS,
            "width": WIDTH,
            "head_width": HEAD,
            "patch_size": PATCH,
            "image_size": size,
            **vision,
        },
        text_cfg={"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
        quick_gelu=True,
    )
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    # The models are so small that threads only wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model() -> Any:
    return small_clip()


@pytest.fixture(scope="session")
def tower(model: Any) -> Tower:
    return Tower(model.visual)


@pytest.fixture(scope="session")
def text() -> Tensor:
    return torch.randn(3, JOINT, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def picture() -> Callable[..., Tensor]:
    def draw(height: int = SIDE, width: int = SIDE, batch: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(height * 1000 + width)
        return torch.randn(batch, 3, height, width, generator=generator)

    return draw
