from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.encoder import InputSpec
from scalecli.localize.load import load_encoder, with_proxy
from scalecli.localize.methods.proxyclip import Proxy, attention, load_proxy, proxy_method
from scalecli.localize.model_config import ModelConfig
from scalecli.localize.vit import Tower
from tests.localize import literal
from tests.localize.test_vit import resized

Picture = Callable[..., Tensor]
CLIP = InputSpec((0.48, 0.46, 0.41), (0.27, 0.26, 0.28), 32)
SMALL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def proxy() -> Proxy:
    torch.manual_seed(0)
    return load_proxy(SMALL, "none", CLIP)


def proxyclip_literal(model: Any, image: Tensor, text: Tensor, features: Tensor) -> Tensor:
    """[P, N] for one image and the second encoder's features [C, h, w], head by head."""
    gh, gw = image.shape[1] // 8, image.shape[2] // 8
    patches = literal.unit(features.flatten(1).T)
    similarity = patches @ patches.T
    similarity = (similarity - similarity.mean() * 1.2) * 3
    similarity[similarity < 0] = float("-inf")
    weights = literal.softmax(similarity)
    block = model.visual.transformer.resblocks[-1]
    outputs = []
    for _q, _k, v in literal.heads(block, literal.streams(model, image)[-2]):
        grid = v[1:].T.reshape(1, -1, gh, gw)
        fine = F.interpolate(grid, size=features.shape[1:], mode="bilinear", align_corners=False)
        outputs.append(weights @ fine[0].flatten(1).T)
    return literal.cosines(model, block.attn.out_proj(torch.cat(outputs, dim=-1)), text)


@pytest.mark.parametrize("sides", [(64, 64), (64, 96)], ids=str)
def test_proxyclip_is_its_authors_equations(
    model: Any, proxy: Proxy, picture: Picture, text: Tensor, sides: tuple[int, int]
) -> None:
    image = picture(*sides)
    with torch.no_grad():
        # Features of a random ViT are all alike: theirs would join nobody to anybody.
        features = proxy.features(image)
        features = features - features.mean(dim=(2, 3), keepdim=True)
        told = _Told(features, proxy)
        other = resized(model, *sides)
        expected = torch.stack(
            [
                proxyclip_literal(other, one, text, own)
                for one, own in zip(image, features, strict=True)
            ]
        )
    ours = proxy_method(told)(Tower(model.visual), image, text)
    assert ours.shape == (2, 3, sides[0] // 16, sides[1] // 16)
    torch.testing.assert_close(ours.flatten(2), expected, rtol=1e-3, atol=1e-5)


class _Told(Proxy):
    """A second encoder whose features are given."""

    def __init__(self, features: Tensor, like: Proxy) -> None:
        super().__init__("told", like.model, like.patch, like.gain, like.shift)
        object.__setattr__(self, "given", features)

    def features(self, image: Tensor) -> Tensor:
        del image
        return self.given  # type: ignore[attr-defined,no-any-return]


def test_features_are_the_second_encoders_own(proxy: Proxy) -> None:
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(part)[:, None, None] for part in (CLIP.mean, CLIP.std))
    theirs = timm.data.resolve_model_data_config(proxy.model)
    own_mean, own_std = (torch.tensor(theirs[part])[:, None, None] for part in ("mean", "std"))
    with torch.no_grad():
        ours = proxy.features((pixels - mean) / std)
        tokens = proxy.model.forward_features((pixels - own_mean) / own_std)[:, 1:]
    expected = tokens.transpose(1, 2).reshape(1, -1, 14, 14)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_sides_that_do_not_fit_the_second_patch_are_resized(proxy: Proxy) -> None:
    with torch.no_grad():
        assert proxy.features(torch.randn(1, 3, 40, 88)).shape[-2:] == (2, 6)


def test_a_plain_image_leaves_every_patch_to_itself() -> None:
    found = attention(torch.ones(1, 4, 2, 3), 1.2, 3.0)
    assert torch.equal(found[0], torch.eye(6))


def test_proxy_is_a_vit_for_any_size() -> None:
    with pytest.raises(UsageError, match="not a ViT"):
        load_proxy("resnet10t", "none", CLIP)
    with pytest.raises(UsageError, match="did you mean"):
        load_proxy("vit_tinny_patch16_224", "none", CLIP)


def test_the_command_line_adds_the_method(picture: Picture) -> None:
    config = ModelConfig(
        model="ViT-B-32", pretrained="none", device="cpu", proxy=SMALL, proxy_pretrained="none"
    )
    encoder = load_encoder(config)
    assert "proxyclip" in encoder.methods
    assert encoder.methods["proxyclip"].options[:2] == ("beta", "gamma")
    assert any(SMALL in note for note in encoder.notes)
    maps = encoder.maps("proxyclip", picture(64, 96), torch.randn(2, 512))
    assert maps.shape == (2, 2, 4, 6)
    plain = replace(encoder, subject=object())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a CLIP ViT"):
        with_proxy(plain, config)
