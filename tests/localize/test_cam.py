from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError
from scalecli.localize.cam import cam, multiscale_cam
from scalecli.localize.gradcam import gradcam, gradcam_vit
from scalecli.localize.methods import CNN_METHODS
from scalecli.localize.timm_tower import TimmTower
from scalecli.localize.vit import Tower

Picture = Callable[..., Tensor]
CLASSES = torch.tensor([0, 3, 7])


def classifier(name: str) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=10).eval()


@pytest.fixture(scope="module")
def cnn() -> Any:
    return classifier("resnet10t")


def score(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda image: model(image)[:, CLASSES]


def classes(model: Any) -> tuple[TimmTower, Tensor]:
    return TimmTower(model, pre_logits=True, unit=False), model.get_classifier().weight[CLASSES]


def test_gradcam_is_cam_up_to_a_constant(cnn: Any, picture: Picture) -> None:
    image = picture(64, 96)
    ours = gradcam(score(cnn), cnn.layer4, image, relu=False)
    tower, rows = classes(cnn)
    expected = CNN_METHODS["cam"](tower, image, rows)
    assert ours.shape == expected.shape == (2, 3, 2, 3)
    # d mean / d f(x, y) = 1 / (h w)
    torch.testing.assert_close(ours * 6, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(gradcam(score(cnn), cnn.layer4, image), ours.relu())
    # CAM at an earlier layer is Grad-CAM on the same scale; at the last they are one.
    signed = CNN_METHODS["cam"](tower, image, rows, layer="layer4")
    torch.testing.assert_close(signed, expected, rtol=1e-4, atol=1e-6)


def test_cam_averages_to_the_logit(cnn: Any, picture: Picture) -> None:
    image = picture(64, 96)
    tower, rows = classes(cnn)
    with torch.no_grad():
        logits = cnn(image)[:, CLASSES] - cnn.fc.bias[CLASSES]
        maps = cam(tower, image, rows)
        torch.testing.assert_close(maps.mean(dim=(2, 3)), logits, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(tower.scores(image, rows), logits, rtol=1e-4, atol=1e-6)
        # Every position alone through the head: the same numbers by another way.
        alone = tower.patch_scores(image, rows)
    torch.testing.assert_close(alone, maps, rtol=1e-4, atol=1e-6)


def test_multiscale_cam_is_the_mean_of_cams(cnn: Any, picture: Picture) -> None:
    image = picture(64, 96)
    tower, rows = classes(cnn)
    with torch.no_grad():
        one = multiscale_cam(tower, image, rows, scales=(1.0,))
        assert torch.equal(one, cam(tower, image, rows))
        both = multiscale_cam(tower, image, rows, scales=(1.0, 2.0))
        fine = multiscale_cam(tower, image, rows, scales=(2.0,))
    assert both.shape == fine.shape == (2, 3, 4, 6)
    coarse = F.interpolate(one, size=(4, 6), mode="bilinear")
    torch.testing.assert_close(both, (coarse + fine) / 2)
    with pytest.raises(UsageError, match="greater than 0"):
        multiscale_cam(tower, image, rows, scales=(0.0,))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"])
def test_cam_refuses_other_heads(name: str, picture: Picture) -> None:
    tower, rows = classes(classifier(name))
    assert not tower.additive
    with pytest.raises(UsageError, match="use gradcam"):
        cam(tower, picture(224, 224, batch=1), rows)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet10t", "layer2"), ("resnet10t", "bn1"), ("convnext_atto", "stages.3")],
)
def test_gradcam_at_any_layer(name: str, layer: str, picture: Picture) -> None:
    model = classifier(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    image = picture(64, 64)
    module = model.get_submodule(layer)
    maps = gradcam(score(model), module, image)
    apart = torch.cat([gradcam(score(model), module, one[None]) for one in image])
    torch.testing.assert_close(maps, apart, rtol=1e-3, atol=1e-5)
    assert float(maps.max()) > 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_hook_is_removed_after_an_error(cnn: Any, picture: Picture) -> None:
    with pytest.raises(UsageError, match=r"Linear gives \[2, 10\]"):
        gradcam(score(cnn), cnn.fc, picture(64, 64))
    with pytest.raises(UsageError, match="takes no part"):
        gradcam(score(cnn), nn.ReLU(), picture(64, 64))
    assert not any(m._forward_hooks for m in cnn.modules())


@pytest.mark.parametrize("block", [-1, 2])
def test_gradcam_on_clip_equals_a_hook_on_ln_1(
    model: Any, tower: Tower, picture: Picture, text: Tensor, block: int
) -> None:
    image = picture()
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.append(output)

    layer = model.visual.transformer.resblocks[block].ln_1
    handle = layer.register_forward_hook(keep)
    cosine = F.normalize(model.encode_image(image), dim=-1) @ F.normalize(text[0], dim=-1)
    handle.remove()
    (gradient,) = torch.autograd.grad(cosine.sum(), seen[0])
    weight = gradient[:, 1:].mean(dim=1, keepdim=True)
    expected = (weight * seen[0].detach()[:, 1:]).sum(dim=-1).relu()
    ours = gradcam_vit(tower, image, text[:1], block=block)
    assert float(ours.max()) > 0
    torch.testing.assert_close(ours[:, 0].flatten(1), expected, rtol=1e-3, atol=1e-6)


def test_gradcam_on_clip_refuses_blocks_it_has_not(
    tower: Tower, picture: Picture, text: Tensor
) -> None:
    with pytest.raises(UsageError, match="outside -8…7"):
        gradcam_vit(tower, picture(), text, block=8)
