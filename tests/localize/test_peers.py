"""CAM and Grad-CAM against the packages that people use for them, where these are installed."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.methods import CNN_METHODS
from scalecli.localize.timm_tower import TimmTower

LAYERS = ("bn2", "blocks.5", "blocks.3")


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


@pytest.fixture(scope="module")
def cnn() -> Any:
    embedded = pytest.importorskip("scalecli.localize.embedded")
    pytest.importorskip(embedded.CNN_WEIGHTS.package)
    return embedded.load_cnn()


@pytest.fixture(scope="module")
def image() -> Tensor:
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image("china.jpg").copy()).float().permute(2, 0, 1)
    return F.interpolate(pixels[None] / 127.5 - 1, size=(160, 224), mode="bilinear")


@pytest.fixture(scope="module")
def theirs(cnn: Any) -> Any:
    """The same network with gradients on, which those packages need."""
    return copy.deepcopy(cnn).requires_grad_(True)


@pytest.fixture(scope="module")
def best(cnn: Any, image: Tensor) -> int:
    with torch.no_grad():
        return int(cnn(image).argmax())


def ours(cnn: Any, image: Tensor, best: int, method: str, **options: Any) -> Tensor:
    tower = TimmTower(cnn, pre_logits=True, unit=False)
    row = cnn.get_classifier().weight[best : best + 1]
    return CNN_METHODS[method](tower, image, row, **options)[0, 0]


def test_cam_is_torchcams(cnn: Any, theirs: Any, image: Tensor, best: int) -> None:
    methods = pytest.importorskip("torchcam.methods")
    with methods.CAM(theirs, "bn2", fc_layer="classifier") as extractor:
        maps = extractor(best, theirs(image), normalized=False)
    assert correlation(ours(cnn, image, best, "cam"), maps[0][0].detach()) > 0.999999


@pytest.mark.parametrize("layer", LAYERS)
def test_gradcam_is_torchcams(cnn: Any, theirs: Any, image: Tensor, best: int, layer: str) -> None:
    methods = pytest.importorskip("torchcam.methods")
    with methods.GradCAM(theirs, layer) as extractor:
        maps = extractor(best, theirs(image), normalized=False)
    mine = ours(cnn, image, best, "gradcam", layer=layer)
    assert correlation(mine, maps[0][0].detach().relu()) > 0.999999


@pytest.mark.parametrize("layer", LAYERS)
def test_gradcam_is_pytorch_grad_cams(
    cnn: Any, theirs: Any, image: Tensor, best: int, layer: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("pytorch_grad_cam")
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    with package.GradCAM(model=theirs, target_layers=[theirs.get_submodule(layer)]) as extractor:
        drawn = extractor(input_tensor=image, targets=[ClassifierOutputTarget(best)])[0]
    mine = ours(cnn, image, best, "gradcam", layer=layer)
    # It is resized to the image as that package does, by OpenCV's bilinear rule.
    resized = F.interpolate(mine[None, None], size=drawn.shape, mode="bilinear")[0, 0]
    assert correlation(resized, torch.from_numpy(drawn)) > 0.999
