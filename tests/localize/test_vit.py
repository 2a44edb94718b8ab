from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from scalecli.core.errors import UsageError
from scalecli.localize.vit import Tower
from tests.localize.conftest import PATCH, small_clip

Picture = Callable[..., Tensor]


def resized(model: Any, height: int, width: int, **vision: Any) -> Any:
    """The same model rebuilt for another image size, positions resampled by timm."""
    other = small_clip(size=(height, width), **vision)
    state = dict(model.state_dict())
    name = "visual.positional_embedding"
    grid = [height // PATCH, width // PATCH]
    state[name] = resample_abs_pos_embed(state[name][None], grid, num_prefix_tokens=1)[0]
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"no_ln_pre": True, "ls_init_value": 0.5},
    ],
    ids=str,
)
def test_plain_path_is_open_clips_own(vision: dict[str, Any], picture: Picture) -> None:
    model = small_clip(**vision)
    tower = Tower(model.visual)
    with torch.no_grad():
        ours = tower.pooled(tower.tokens(picture()))
        own = model.encode_image(picture())
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 64), (24, 16)])
def test_other_grids_equal_a_model_built_for_them(
    model: Any, tower: Tower, picture: Picture, height: int, width: int
) -> None:
    image = picture(height, width)
    with torch.no_grad():
        ours = tower.pooled(tower.tokens(image))
        own = resized(model, height, width).encode_image(image)
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5)


def test_sequence_first_blocks_give_the_same(model: Any, tower: Tower, picture: Picture) -> None:
    # What open_clip before 2.26 built; the adapter must not depend on it.
    other = small_clip()
    for block in other.visual.transformer.resblocks:
        block.attn.batch_first = False
    with torch.no_grad():
        ours = Tower(other.visual).tokens(picture())
        assert torch.equal(ours, tower.tokens(picture()))


def test_sides_that_are_no_multiples_are_refused(tower: Tower, picture: Picture) -> None:
    with pytest.raises(UsageError, match="multiples of 8×8"):
        tower.embed(picture(32, 33))


def test_other_towers_are_refused() -> None:
    with pytest.raises(UsageError, match="pools by attention"):
        Tower(small_clip(attentional_pool=True).visual)
    with pytest.raises(UsageError, match="custom attention"):
        Tower(small_clip(qk_norm=True).visual)
    with pytest.raises(UsageError, match="is a Linear, not a ViT"):
        Tower(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="not a ViT"):
        Tower(small_clip(layers=(1, 1, 1, 1)).visual)


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        Tower(small_clip().train().visual)
