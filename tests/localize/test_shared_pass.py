from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from scalecli.localize.load import applicable
from scalecli.localize.methods import CNN_METHODS, GRADIENT_METHODS, VIT_METHODS
from scalecli.localize.timm_tower import TimmTower
from scalecli.localize.vit import Tower
from tests.localize.conftest import LAYERS, small_clip

Picture = Callable[..., Tensor]


class Counted:
    """How often each block is run."""

    def __init__(self, model: Any) -> None:
        self.runs = 0
        for block in model.visual.transformer.resblocks:
            block.mlp.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.runs += 1


def test_every_method_gives_the_same_from_a_shared_pass(
    tower: Tower, picture: Picture, text: Tensor
) -> None:
    image = picture(32, 48)
    apart = {name: method(tower, image, text) for name, method in VIT_METHODS.items()}
    with tower.shared(image):
        together = {name: method(tower, image, text) for name, method in VIT_METHODS.items()}
        again = {name: method(tower, image, text) for name, method in VIT_METHODS.items()}
    for name, maps in apart.items():
        assert torch.equal(maps, together[name]), name
        assert torch.equal(maps, again[name]), name
        assert not together[name].requires_grad


def test_blocks_are_run_once_for_all_methods(picture: Picture, text: Tensor) -> None:
    model = small_clip()
    tower, count, image = Tower(model.visual), Counted(model), picture()
    names = ("gem", "maskclip", "naclip", "clearclip", "pearl", "sc-clip")
    with tower.shared(image):
        for name in names:
            VIT_METHODS[name](tower, image, text)
    assert count.runs == LAYERS - 1  # none of them needs the last block's own MLP
    count.runs = 0
    for name in names:
        VIT_METHODS[name](tower, image, text)
    assert count.runs == len(names) * (LAYERS - 1)


def test_only_this_tensor_is_shared_and_only_inside(picture: Picture, text: Tensor) -> None:
    model = small_clip()
    tower, count, image = Tower(model.visual), Counted(model), picture()
    with tower.shared(image):
        VIT_METHODS["naclip"](tower, image, text)
        other = VIT_METHODS["naclip"](tower, 2 * image, text)
        assert count.runs == 2 * (LAYERS - 1)
        with tower.shared(image):  # a method that shares inside a run that does
            VIT_METHODS["naclip"](tower, image, text)
        VIT_METHODS["naclip"](tower, image, text)
        assert count.runs == 2 * (LAYERS - 1)
    assert torch.equal(other, VIT_METHODS["naclip"](tower, 2 * image, text))
    count.runs = 0
    VIT_METHODS["naclip"](tower, image, text)
    assert count.runs == LAYERS - 1


def test_steps_of_a_shared_pass_can_be_read_by_two_at_a_time(
    tower: Tower, picture: Picture
) -> None:
    image = picture()
    with torch.no_grad():
        expected = [step.x for step in tower.steps(image)]
        with tower.shared(image):
            pairs = list(zip(tower.steps(image), tower.steps(image), strict=True))
    assert len(pairs) == LAYERS
    for (first, second), x in zip(pairs, expected, strict=True):
        assert first is second
        assert torch.equal(first.x, x)


def test_prefixes_share_the_pass_as_well(picture: Picture, text: Tensor) -> None:
    model = small_clip()
    tower, count, image = Tower(model.visual), Counted(model), picture()
    apart = [VIT_METHODS["naclip"](part, image, text) for part in tower.prefixes()]
    count.runs = 0
    with tower.shared(image):
        together = [VIT_METHODS["naclip"](part, image, text) for part in tower.prefixes()]
    assert count.runs == LAYERS - 1
    assert all(torch.equal(a, b) for a, b in zip(apart, together, strict=True))


def test_an_error_inside_ends_the_sharing(tower: Tower, picture: Picture) -> None:
    image = picture()
    with pytest.raises(KeyError), tower.shared(image):
        raise KeyError
    with torch.no_grad():
        assert next(tower.steps(image)) is not next(tower.steps(image))


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_timm_networks_are_passed_once(name: str, picture: Picture) -> None:
    trunk = timm.create_model(name, pretrained=False, num_classes=10).eval().requires_grad_(False)
    tower = TimmTower(trunk, pre_logits=True, unit=False)
    image, text = picture(224, 224), torch.randn(3, trunk.num_features)
    methods = {n: m for n, m in applicable(tower, CNN_METHODS).items() if not m.slow}
    apart = {n: method(tower, image, text) for n, method in methods.items()}
    apart_scores = tower.scores(image, text)
    passes: list[int] = []
    first = next(module for module in trunk.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda *_: passes.append(1))
    with tower.shared(image):
        together = {n: method(tower, image, text) for n, method in methods.items()}
        with torch.no_grad():
            scores = tower.scores(image, text)
    assert torch.equal(scores, apart_scores)
    assert all(torch.equal(apart[n], together[n]) for n in methods)
    gradients = sum(n in GRADIENT_METHODS for n in methods)
    larger = "multiscale-cam" in methods
    assert len(passes) == 1 + gradients + larger
    passes.clear()
    tower.patch_scores(image, text)
    assert len(passes) == 1


def test_prefixes_of_a_timm_network_do_not_take_the_whole_for_themselves(
    picture: Picture,
) -> None:
    trunk = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=10).eval()
    tower = TimmTower(trunk.requires_grad_(False), pre_logits=True, unit=False)
    image, text = picture(224, 224), torch.randn(2, trunk.num_features)
    with torch.no_grad():
        apart = [part.scores(image, text) for part in tower.prefixes()]
        with tower.shared(image):
            tower.scores(image, text)
            together = [part.scores(image, text) for part in tower.prefixes()]
    assert len(apart) == len(trunk.blocks)
    assert all(torch.equal(a, b) for a, b in zip(apart, together, strict=True))
