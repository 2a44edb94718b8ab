from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.methods import VIT_METHODS, Method
from scalecli.localize.methods.depth import blocks_before
from scalecli.localize.methods.naclip import gaussian
from scalecli.localize.methods.pearl import polar
from scalecli.localize.methods.resclip import patch_labels, semantic_attention
from scalecli.localize.methods.sc_clip import aggregate, outlier_factor, resolve
from scalecli.localize.vit import Tower
from tests.localize import literal
from tests.localize.conftest import JOINT, small_clip
from tests.localize.test_vit import resized

Picture = Callable[..., Tensor]
grids = pytest.mark.parametrize("sides", [(32, 32), (32, 48), (56, 40)], ids=str)
TWELVE = {"layers": 12}


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


@pytest.fixture(scope="module")
def deep() -> Any:
    return small_clip(**TWELVE)


def words_in(model: Any, image: Tensor) -> Tensor:
    """Texts [3, E] that tell the patches of this picture apart: their main directions."""
    tower = Tower(model.visual)
    with torch.no_grad():
        step, grid = tower.last(image), tower.grid(image)
        _, k, v = step.heads
        values = F.scaled_dot_product_attention(k, k, v, attn_mask=gaussian(grid, 5.0))
        joint = F.normalize(tower.project(tower.out(step.block, values))[:, 1:], dim=-1)
    directions = torch.linalg.svd((joint - joint.mean(dim=1, keepdim=True)).flatten(0, 1)).Vh
    return torch.stack([directions[0], -directions[0], directions[1]])


def agree(method: Method, reference: Callable[..., Tensor], model: Any, image: Tensor) -> None:
    """A method on the given model equals the equations on one built for the image's size."""
    text = words_in(model, image)
    height, width = image.shape[-2:]
    vision = TWELVE if len(model.visual.transformer.resblocks) == 12 else {}
    other = resized(model, height, width, **vision)
    ours = method(Tower(model.visual), image, text)
    expected = torch.stack([reference(other, one, text).detach() for one in image])
    assert ours.shape == (len(image), 3, height // 8, width // 8)
    assert correlation(ours, expected) >= 0.999999
    torch.testing.assert_close(ours.flatten(2), expected, rtol=1e-3, atol=2e-5)


@grids
@pytest.mark.parametrize("name", ["sclip", "clearclip", "naclip", "pearl", "legrad"])
def test_methods_are_their_authors_equations(
    model: Any, picture: Picture, sides: tuple[int, int], name: str
) -> None:
    agree(VIT_METHODS[name], getattr(literal, name), model, picture(*sides))


@grids
@pytest.mark.parametrize("neighbours", [30, 5])
def test_sc_clip_is_its_authors_equations_on_twelve_blocks(
    deep: Any, picture: Picture, sides: tuple[int, int], neighbours: int
) -> None:
    method = Method(partial(VIT_METHODS["sc-clip"].run, neighbours=neighbours), "")
    agree(method, partial(literal.sc_clip, neighbours=neighbours), deep, picture(*sides))


@grids
@pytest.mark.parametrize("threshold", [0.11, 0.9])
def test_resclip_is_its_authors_equations_on_twelve_blocks(
    deep: Any, picture: Picture, sides: tuple[int, int], threshold: float
) -> None:
    image = picture(*sides)
    text = words_in(deep, image)
    other = resized(deep, *sides, **TWELVE)
    seen = set()

    def reference(_model: Any, one: Tensor, text: Tensor) -> Tensor:
        with torch.no_grad():
            found, labels = literal.resclip(other, one, text, feedback=True, threshold=threshold)
        seen.update(labels.flatten().tolist())
        return found

    method = Method(partial(VIT_METHODS["resclip"].run, threshold=threshold), "")
    agree(method, reference, deep, image)
    assert len(seen) > 1, "one label everywhere says nothing about the feedback"
    first = VIT_METHODS["resclip"](Tower(deep.visual), image, text, feedback=False)
    with torch.no_grad():
        expected = torch.stack(
            [literal.resclip(other, one, text, feedback=False)[0] for one in image]
        )
    torch.testing.assert_close(first.flatten(2), expected, rtol=1e-3, atol=2e-5)


def test_resclip_without_feedback_lets_prompts_alone(tower: Tower, picture: Picture) -> None:
    text = torch.randn(3, JOINT, generator=torch.Generator().manual_seed(2))
    resclip = VIT_METHODS["resclip"]
    together = resclip(tower, picture(), text, feedback=False)
    alone = resclip(tower, picture(), text[1:2], feedback=False)
    torch.testing.assert_close(together[:, 1:2], alone)


def test_depth_is_the_authors_at_twelve_blocks_and_stays_inside() -> None:
    class Blocks:
        def __init__(self, count: int) -> None:
            self.blocks = [None] * count

    def depths(count: int) -> list[int]:
        blocks: Any = Blocks(count)
        return [blocks_before(blocks, n) for n in (4, 6, 9, 10)]

    assert depths(12) == [4, 6, 9, 10]
    assert depths(24) == [8, 12, 18, 20]
    assert depths(2) == [1, 1, 1, 1]
    for count in range(2, 40):
        assert depths(count) == sorted(depths(count))
        assert 1 <= depths(count)[0] <= depths(count)[-1] < count
    with pytest.raises(UsageError, match="only one"):
        depths(1)


def test_neighbourhood_looks_the_same_everywhere() -> None:
    window = gaussian((3, 5), 2.0)
    torch.testing.assert_close(window, literal.neighbourhood((3, 5), 2.0))
    assert torch.equal(window[1:, 1:].diagonal(), torch.ones(15))


def test_outlier_factor_finds_the_stranger_and_bears_twins() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(1, 40, 6, generator=generator)
    patches[0, 17] += 30
    factor = outlier_factor(patches, 10)
    assert int(factor.argmax()) == 17
    assert float(factor.median()) == pytest.approx(1, abs=0.2)
    same = outlier_factor(torch.ones(2, 9, 6), 30)
    assert torch.equal(same, torch.ones(2, 9))
    assert bool(outlier_factor(patches[:, :2], 30).isfinite().all())


def test_outliers_become_the_mean_of_sound_neighbours() -> None:
    patches = torch.arange(12.0).reshape(1, 12, 1)
    odd = torch.zeros(1, 12, dtype=torch.bool)
    odd[0, [0, 5]] = True
    found = resolve(patches, odd, (3, 4))[0, :, 0]
    assert float(found[0]) == pytest.approx((1 + 4) / 2)  # neighbour 5 is odd itself
    assert float(found[5]) == pytest.approx((1 + 2 + 4 + 6 + 8 + 9 + 10) / 7)
    assert torch.equal(found[~odd[0]], patches[0, ~odd[0], 0])
    # On a strip of odd patches nobody is sound: they stay.
    strip = torch.ones(1, 12, dtype=torch.bool)
    assert torch.equal(resolve(patches, strip, (3, 4)), patches)


def test_aggregation_among_strangers_and_among_twins() -> None:
    patches = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    kept = aggregate(patches, torch.eye(5)[None], 0.4)
    torch.testing.assert_close(kept, patches, rtol=1e-4, atol=1e-5)
    mean = aggregate(patches, torch.ones(1, 5, 5), 0.4)
    expected = patches.mean(dim=1, keepdim=True).expand(-1, 5, -1)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)


def test_many_newton_schulz_steps_reach_the_rotation_and_five_do_not() -> None:
    m = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    u, s, vh = torch.linalg.svd(m)
    # The method adds 1e-6 to squared singular values over their norm: those must be larger.
    m = u @ torch.diag_embed(s.clamp_min(s.amax() / 20)) @ vh
    torch.testing.assert_close(polar(m, 40), u @ vh, rtol=1e-3, atol=1e-3)
    five = polar(m, 5)
    eye = torch.eye(16, dtype=torch.float64)
    assert float((five.transpose(-1, -2) @ five - eye).abs().max()) > 0.1


def test_semantic_attention_needs_the_label_and_the_way() -> None:
    labels = torch.tensor([[[0, 0, 1, 0, 0]]])
    attention = semantic_attention(labels, sigma=0.1)[0]
    assert attention.shape == (6, 6)
    assert float(attention[0].abs().max()) == float(attention[:, 0].abs().max()) == 0
    patches = attention[1:, 1:]
    # With hardly any blur: nothing for the other label, less for the own one behind it.
    assert float(patches[0, 2]) == pytest.approx(0, abs=1e-6)
    assert 0 < float(patches[0, 4]) < float(patches[0, 1])
    assert float(attention.max()) == 1
    many = torch.randint(0, 3, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    for one, found in zip(many, semantic_attention(many, sigma=5.0), strict=True):
        expected = literal.attraction_of(one)
        torch.testing.assert_close(found, expected / expected.max(), rtol=1e-4, atol=1e-5)


def test_patch_labels_count_the_background_where_nothing_is_sure() -> None:
    maps = torch.zeros(1, 3, 2, 3)
    maps[0, 1, :, 0], maps[0, 2, :, 2] = 1, 1
    image = torch.zeros(1, 3, 16, 24)
    labels = patch_labels(image, maps, (2, 3), threshold=0.5, logit_scale=40)
    assert labels[0, :, 0].tolist() == [1, 1]
    assert labels[0, :, 2].tolist() == [2, 2]
    unsure = patch_labels(image, maps, (2, 3), threshold=1.1, logit_scale=40)
    assert not unsure.any()


@pytest.mark.parametrize("blocks", [0, 9])
def test_legrad_refuses_blocks_the_tower_has_not(
    tower: Tower, picture: Picture, text: Tensor, blocks: int
) -> None:
    with pytest.raises(UsageError, match="outside 1…8"):
        VIT_METHODS["legrad"](tower, picture(), text, blocks=blocks)


def test_legrad_sums_over_blocks(tower: Tower, picture: Picture, text: Tensor) -> None:
    legrad = VIT_METHODS["legrad"]
    one, three = (legrad(tower, picture(), text, blocks=n) for n in (1, 3))
    assert bool((one >= 0).all())
    assert bool((three >= one).all())
    assert float((three - one).max()) > 0


def test_towers_of_one_block_are_refused_by_methods_that_look_before_it(
    picture: Picture, text: Tensor
) -> None:
    single = Tower(small_clip(layers=1).visual)
    for name in ("sc-clip", "resclip"):
        with pytest.raises(UsageError, match="only one"):
            VIT_METHODS[name](single, picture(), text)
    assert VIT_METHODS["naclip"](single, picture(), text).shape == (2, 3, 4, 4)
