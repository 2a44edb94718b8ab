from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.methods import VIT_METHODS, laplacian, pamr
from scalecli.localize.methods.refinements import REFINEMENTS
from scalecli.localize.methods.surgery import feature_surgery
from scalecli.localize.vit import Tower
from tests.localize import literal

SIDES = [(40, 40), (40, 72)]
sizes = pytest.mark.parametrize("sides", SIDES, ids=str)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@sizes
def test_pamr_is_its_authors_convolutions(sides: tuple[int, int]) -> None:
    image, maps = drawn(2, 3, *sides), drawn(2, 4, 5, 9, seed=1)
    large = F.interpolate(maps, size=sides, mode="bilinear", align_corners=True)
    expected = torch.cat([literal.pamr(image[i : i + 1], large[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(pamr.refine(image, maps), expected, rtol=1e-4, atol=1e-5)


def test_pamr_averages_and_keeps_what_is_even() -> None:
    image, maps = drawn(1, 3, 24, 40), drawn(1, 2, 3, 5)
    refined = pamr.refine(image, maps, iterations=5)
    assert float(refined.max()) <= float(maps.max())
    assert float(refined.min()) >= float(maps.min())
    even = torch.full((1, 2, 3, 5), 0.3)
    torch.testing.assert_close(pamr.refine(image, even), torch.full((1, 2, 24, 40), 0.3))
    weights = pamr.affinity(image, (8, 16))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, 24, 40))


def test_pamr_does_not_cross_an_edge_that_upsampling_blurs() -> None:
    image = torch.zeros(1, 3, 32, 64)
    image[..., 30:] = 1
    image = image + 0.01 * drawn(1, 3, 32, 64)
    maps = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 4)
    rough = pamr.refine(image, maps, iterations=0)[0, 0, 16]
    fine = pamr.refine(image, maps)[0, 0, 16]
    assert float(fine[31] - fine[28]) > 3 * float(rough[31] - rough[28])


def dense_laplacian(image: Tensor, maps: Tensor, text: Tensor, cells: int) -> Tensor:
    """The minimum by a dense linear system, cell by cell, of one image [3, h, w]."""
    height, width = image.shape[1:]
    kernel = (max(1, round(height / cells)), max(1, round(width / cells)))
    large = F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)
    z = F.avg_pool2d(large, kernel)[0]
    small = F.avg_pool2d(image[None], kernel)[0]
    grey = 0.299 * small[0] + 0.587 * small[1] + 0.114 * small[2]
    prompts, rows, columns = z.shape
    unit = literal.unit(text)
    g = torch.softmax(unit @ unit.T / 0.5, dim=1) + 10 * torch.eye(prompts)
    g = (g / g.sum(dim=1, keepdim=True)).diagonal()
    p = z.softmax(dim=0).flatten(1)
    count = rows * columns
    system = torch.zeros(count, count, dtype=torch.float64)
    trust = torch.zeros(count, dtype=torch.float64)
    for i in range(count):
        trust[i] = max(float(p[:, i].max()), 0.05) ** 2 * (1 + float((g * p[:, i] ** 2).sum()))
    down = float((grey[1:] - grey[:-1]).abs().mean())
    across = float((grey[:, 1:] - grey[:, :-1]).abs().mean())
    for i in range(count):
        x = i % columns
        for j, typical in ((i + 1, across), (i + columns, down)):
            if (j == i + 1 and x + 1 == columns) or j >= count:
                continue
            jump = abs(float(grey.flatten()[i] - grey.flatten()[j])) / (typical + 1e-6)
            agree = min(float((g * p[:, i] * p[:, j]).sum()), 1)
            weight = min(float(torch.exp(torch.tensor(-5 * jump))) * (1 + agree), 1)
            system[i, i] += weight
            system[j, j] += weight
            system[i, j] -= weight
            system[j, i] -= weight
    system += trust.diag()
    solved = torch.linalg.solve(system, (trust[:, None] * z.flatten(1).T.double()))
    coarse = solved.T.reshape(1, prompts, rows, columns).float()
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)[0]


@sizes
@pytest.mark.parametrize("cells", [10, 400])
def test_laplacian_propagation_minimises_its_energy(sides: tuple[int, int], cells: int) -> None:
    sides = sides if cells == 10 else (12, 20)
    image, maps, text = drawn(2, 3, *sides), drawn(2, 3, 5, 9, seed=1), drawn(3, 8, seed=2)
    refined = laplacian.refine(image, maps, text, cells=cells, iterations=200)
    expected = torch.stack(
        [dense_laplacian(one, own, text, cells) for one, own in zip(image, maps, strict=True)]
    )
    torch.testing.assert_close(refined, expected, rtol=1e-3, atol=1e-4)


def test_laplacian_propagation_keeps_what_is_even_and_bears_one_row() -> None:
    image, text = drawn(1, 3, 8, 40), drawn(2, 6)
    even = torch.full((1, 2, 1, 5), 0.25)
    torch.testing.assert_close(
        laplacian.refine(image, even, text, cells=1), torch.full((1, 2, 8, 40), 0.25)
    )
    assert bool(laplacian.refine(image, drawn(1, 2, 1, 5), text, cells=1).isfinite().all())


@pytest.mark.parametrize("name", list(REFINEMENTS))
def test_refinements_give_maps_of_the_images_size(name: str) -> None:
    refined = REFINEMENTS[name](drawn(2, 3, 24, 40), drawn(2, 3, 3, 5), drawn(3, 6))
    assert refined.shape == (2, 3, 24, 40)
    assert refined.dtype == torch.float32


@pytest.mark.parametrize("name", ["gem", "patch-text", "naclip"])
def test_surgery_applies_to_any_patch_method(tower: Tower, text: Tensor, name: str) -> None:
    method, image = VIT_METHODS[name], drawn(2, 3, 32, 48)
    plain = method(tower, image, text)
    shared = method(tower, image, text, surgery="prompts")
    with torch.no_grad():
        expected = feature_surgery(plain, tower.scores(image, text))
    torch.testing.assert_close(shared, expected)
    torch.testing.assert_close(shared.sum(dim=1), torch.zeros(2, 4, 6), rtol=0, atol=1e-5)
    empty = drawn(len(text[0]), seed=3)
    less = method(tower, image, text, surgery="empty", empty=empty)
    torch.testing.assert_close(less, plain - method(tower, image, empty[None]))
    assert torch.equal(method(tower, image, text, empty=empty), plain)


def test_surgery_that_cannot_be_done_says_so(tower: Tower, text: Tensor) -> None:
    gem, image = VIT_METHODS["gem"], drawn(1, 3, 32, 32)
    with pytest.raises(UsageError, match="one prompt"):
        gem(tower, image, text[:1], surgery="prompts")
    with pytest.raises(UsageError, match="empty class name"):
        gem(tower, image, text, surgery="empty")


def test_auto_surgery_is_among_prompts_or_less_the_empty_one(tower: Tower, text: Tensor) -> None:
    method, image, empty = VIT_METHODS["clip-surgery"], drawn(1, 3, 32, 32), drawn(24, seed=3)
    several = method(tower, image, text, empty=empty)
    assert torch.equal(several, method(tower, image, text, surgery="prompts"))
    one = method(tower, image, text[:1], empty=empty)
    assert torch.equal(one, method(tower, image, text[:1], surgery="empty", empty=empty))
