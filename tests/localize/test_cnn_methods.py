from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalecli.core.errors import UsageError
from scalecli.localize.gradcam import explain
from scalecli.localize.methods import CNN_METHODS
from scalecli.localize.methods.gradcam_pp import growing_gradient
from scalecli.localize.methods.layercam import positive_gradient
from scalecli.localize.timm_tower import TimmTower

Picture = Callable[..., Tensor]
CLASSES = [0, 3, 7]
NAMES = ("gradcam++", "layercam", "hirescam", "scorecam")
# Score-CAM takes a pass for every channel: the first stage has the fewest.
CASES = [(name, f"layer{n}") for name in NAMES[:3] for n in (2, 3)] + [("scorecam", "layer1")]
names = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def cnn() -> Any:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=10).eval()
    with torch.no_grad():
        model.fc.weight.mul_(30)  # logits of a usual size, which Grad-CAM++ and Score-CAM feel
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def tower(cnn: Any) -> TimmTower:
    return TimmTower(cnn, pre_logits=True, unit=False)


@pytest.fixture(scope="module")
def rows(cnn: Any) -> Tensor:
    weight: Tensor = cnn.fc.weight[CLASSES].clone()
    return weight


def upper(cnn: Any, layer: str) -> Callable[[Tensor], Tensor]:
    """From the output of a stage of the ResNet to the class scores [10], without their bias."""
    stages = ["layer1", "layer2", "layer3", "layer4"]

    def run(features: Tensor) -> Tensor:
        x = features[None]
        for name in stages[stages.index(layer) + 1 :]:
            x = getattr(cnn, name)(x)
        scores: Tensor = (x.mean(dim=(2, 3)) @ cnn.fc.weight.T)[0]
        return scores

    return run


def lower(cnn: Any, layer: str, image: Tensor) -> Tensor:
    """Output [C, h, w] of a stage for one image."""
    x = cnn.maxpool(cnn.act1(cnn.bn1(cnn.conv1(image[None]))))
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(cnn, name)(x)
        if name == layer:
            break
    found: Tensor = x[0]
    return found


def literal(name: str, cnn: Any, layer: str, image: Tensor, index: int) -> Tensor:
    """The equations for one image and class, channel by channel: [h, w] before the last ReLU."""
    f = lower(cnn, layer, image).clone().requires_grad_()
    (g,) = torch.autograd.grad(upper(cnn, layer)(f)[index], f)
    f = f.detach()
    total = torch.zeros_like(f[0])
    if name == "scorecam":
        seen = []
        for channel in f:
            mask = F.interpolate(
                channel[None, None], size=image.shape[1:], mode="bilinear", align_corners=True
            )[0, 0]
            mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
            seen.append(cnn((image * mask)[None])[0, index])
        weights = torch.softmax(torch.stack(seen), dim=0)
    for i in range(len(f)):
        if name == "scorecam":
            total += weights[i] * f[i]
        elif name == "layercam":
            total += g[i].clamp(min=0) * f[i]
        elif name == "hirescam":
            total += g[i] * f[i]
        else:
            weight = torch.zeros(())
            for y in range(f.shape[1]):
                for x in range(f.shape[2]):
                    slope = g[i, y, x]
                    below = 2 * slope**2 + f[i].sum() * slope**3
                    alpha = slope**2 / below if below != 0 else torch.zeros(())
                    weight = weight + alpha * slope.clamp(min=0)
            total += weight * f[i]
    return total


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("name", "layer"), CASES)
def test_methods_are_their_equations(
    tower: TimmTower, picture: Picture, name: str, layer: str, wide: bool
) -> None:
    cnn = tower.trunk
    image = picture(32, 64 if wide else 32, batch=1)
    ours = CNN_METHODS[name](tower, image, cnn.fc.weight[CLASSES[:2]], layer=layer, relu=False)
    expected = torch.stack([literal(name, cnn, layer, image[0], i) for i in CLASSES[:2]])
    scale = float(expected.abs().max())
    torch.testing.assert_close(ours[0] / scale, expected / scale, rtol=1e-3, atol=1e-5)
    cut = CNN_METHODS[name](tower, image, cnn.fc.weight[CLASSES[:2]], layer=layer)
    assert torch.equal(cut, ours.relu())


@names
def test_batched_equals_single_and_prompts_stay_apart(
    tower: TimmTower, rows: Tensor, picture: Picture, name: str
) -> None:
    image = picture(32, 64)
    method = partial(CNN_METHODS[name], layer="layer1" if name == "scorecam" else "layer3")
    together = method(tower, image, rows)
    apart = torch.cat(
        [torch.cat([method(tower, one[None], row[None]) for row in rows], dim=1) for one in image]
    )
    assert together.shape == ((2, 3, 8, 16) if name == "scorecam" else (2, 3, 2, 4))
    assert together.dtype == torch.float32
    assert not together.requires_grad
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-5 * float(apart.max()))


@names
def test_model_is_left_as_it_was(
    cnn: Any, tower: TimmTower, rows: Tensor, picture: Picture, name: str
) -> None:
    before = {key: value.clone() for key, value in cnn.state_dict().items()}
    CNN_METHODS[name](tower, picture(32, 32), rows, layer="layer1")
    assert all(torch.equal(before[key], value) for key, value in cnn.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in cnn.modules())


def test_hirescam_adds_up_to_the_score(tower: TimmTower, rows: Tensor, picture: Picture) -> None:
    image = picture(64, 96)
    maps = CNN_METHODS["hirescam"](tower, image, rows, relu=False)
    with torch.no_grad():
        scores = tower.scores(image, rows)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), scores, rtol=1e-4, atol=1e-4)


def test_at_the_last_convolution_cam_gradcam_and_hirescam_coincide(
    tower: TimmTower, rows: Tensor, picture: Picture
) -> None:
    image = picture(64, 96)
    cam = CNN_METHODS["cam"](tower, image, rows)
    for name in ("gradcam", "hirescam"):
        maps = CNN_METHODS[name](tower, image, rows, relu=False)
        torch.testing.assert_close(6 * maps, cam, rtol=1e-3, atol=1e-3)
    mean, own = (
        CNN_METHODS[name](tower, image, rows, relu=False, layer="layer1")
        for name in ("gradcam", "hirescam")
    )
    assert float((mean - own).abs().max()) > 0.01 * float(own.abs().max())


def test_channels_without_a_gradient_weigh_nothing() -> None:
    features = torch.rand(1, 2, 2, 2)
    gradient = torch.zeros(1, 2, 2, 2)
    assert torch.equal(growing_gradient(features, gradient), torch.zeros(1, 2, 2))
    gradient[0, 0] = -1
    assert torch.equal(positive_gradient(features, gradient), torch.zeros(1, 2, 2))


def test_scorecam_in_small_batches_and_wrong_ones(
    tower: TimmTower, rows: Tensor, picture: Picture
) -> None:
    scorecam, image = CNN_METHODS["scorecam"], picture(32, 32, batch=1)
    few = scorecam(tower, image, rows, layer="layer1", batch=7)
    torch.testing.assert_close(few, scorecam(tower, image, rows, layer="layer1"))
    with pytest.raises(UsageError, match="at least 1"):
        scorecam(tower, image, rows, batch=0)


def test_layers_that_give_no_map_are_refused(
    cnn: Any, tower: TimmTower, rows: Tensor, picture: Picture
) -> None:
    image = picture(32, 32, batch=1)
    for name in NAMES:
        with pytest.raises(UsageError, match=r"\[1, 512\]|takes no part"):
            CNN_METHODS[name](tower, image, rows, layer="global_pool")
        with pytest.raises(UsageError, match="there is none"):
            CNN_METHODS[name](tower, image, rows, layer="layer9")
    with pytest.raises(UsageError, match="takes no part"):
        explain(cnn, nn.ReLU(), image, positive_gradient)
