from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.methods import VIT_METHODS
from scalecli.localize.methods.attention import anchors
from scalecli.localize.methods.gem import gem_tokens
from scalecli.localize.methods.self_self import attend, inverse_temperature
from scalecli.localize.methods.surgery import feature_surgery
from scalecli.localize.vit import Tower
from tests.localize.conftest import HEAD, JOINT, WIDTH, small_clip
from tests.localize.test_vit import resized

Picture = Callable[..., Tensor]
names = pytest.mark.parametrize("name", list(VIT_METHODS))
grids = pytest.mark.parametrize("sides", [(32, 32), (32, 48), (56, 40)], ids=str)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


def unit(x: Tensor) -> Tensor:
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length


def gem_literal(model: Any, image: Tensor, *, blocks: int = 6, iterations: int = 1) -> Tensor:
    """The authors' equations for one image, head by head, on open_clip's own blocks. [T, E]."""
    visual = model.visual
    original = visual._embeds(image[None])
    resblocks = list(visual.transformer.resblocks)
    for block in resblocks[:-blocks]:
        original = block(original)
    gem = original[0].clone()
    for block in resblocks[-blocks:]:
        x = block.ln_1(original)[0]
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        q, k, v = (
            x @ weight[i * WIDTH : (i + 1) * WIDTH].T + bias[i * WIDTH : (i + 1) * WIDTH]
            for i in range(3)
        )
        beta = sum(float(row.norm()) for row in x) / len(x) / math.sqrt(HEAD)
        outputs = []
        for p in (v, k, q):
            heads = []
            for h in range(WIDTH // HEAD):
                cut = slice(h * HEAD, (h + 1) * HEAD)
                ph = p[:, cut]
                for _ in range(iterations):
                    ph = unit(ph)
                    ph = torch.softmax(ph @ ph.T * beta, dim=-1) @ ph
                ph = unit(ph)
                heads.append(torch.softmax(ph @ ph.T * beta, dim=-1) @ v[:, cut])
            outputs.append(torch.cat(heads, dim=-1))
        gem = gem + block.ls_1(block.attn.out_proj(sum(outputs) / 3))
        original = block(original)
    return visual.ln_post(gem) @ visual.proj  # type: ignore[no-any-return]


@grids
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.5}], ids=str)
def test_gem_is_its_authors_equations(
    picture: Picture, text: Tensor, sides: tuple[int, int], iterations: int, vision: dict[str, Any]
) -> None:
    model = small_clip(**vision)
    image = picture(*sides)
    ours = VIT_METHODS["gem"](Tower(model.visual), image, text, iterations=iterations)
    other = resized(model, *sides, **vision)
    with torch.no_grad():
        literal = torch.stack([gem_literal(other, one, iterations=iterations) for one in image])
        expected = unit(text) @ unit(literal[:, 1:]).transpose(1, 2)
    assert ours.shape == (2, 3, sides[0] // 8, sides[1] // 8)
    assert correlation(ours, expected) >= 0.999999
    torch.testing.assert_close(ours.flatten(2), expected, rtol=1e-3, atol=1e-4)


def test_gem_attention_is_neither_identity_nor_uniform(tower: Tower, picture: Picture) -> None:
    # Code for sequence-first tokens attends over the batch of one: the identity.
    with torch.no_grad():
        step = tower.last(picture(batch=1))
        # Attending to the identity gives the attention itself.
        v = step.heads.v
        eye = torch.eye(v.shape[2]).expand(*v.shape[:2], -1, -1)
        attention = attend(v, eye, inverse_temperature(step))
    tokens = attention.shape[-1]
    assert attention.shape == (1, WIDTH // HEAD, 17, 17)
    own = attention.diagonal(dim1=-2, dim2=-1)
    assert 1 / tokens < float(own.mean()) < 0.9
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(1, WIDTH // HEAD, tokens))


def test_gem_temperature_is_inverse_and_blocks_are_counted_from_the_end(
    tower: Tower, picture: Picture
) -> None:
    with torch.no_grad():
        sharp = gem_tokens(tower, picture(), blocks=1, iterations=0, temperature=1e4)
        step = tower.last(picture())
        # Infinitely sharp self-self attention keeps every value where it is.
        expected = step.x + tower.out(step.block, step.heads.v)
    torch.testing.assert_close(sharp, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["gem", "clip-surgery"])
@pytest.mark.parametrize("blocks", [0, 9])
def test_blocks_the_tower_has_not_are_refused(
    tower: Tower, picture: Picture, text: Tensor, name: str, blocks: int
) -> None:
    with pytest.raises(UsageError, match="outside 1…8"):
        VIT_METHODS[name](tower, picture(), text, blocks=blocks)


@names
@grids
def test_shape_and_range(
    tower: Tower, picture: Picture, text: Tensor, name: str, sides: tuple[int, int]
) -> None:
    scores = VIT_METHODS[name](tower, picture(*sides), text)
    assert scores.shape == (2, 3, sides[0] // 8, sides[1] // 8)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert bool(scores.isfinite().all())
    if VIT_METHODS[name].cosine:
        assert float(scores.abs().max()) <= 1 + 1e-6


@names
def test_batched_equals_single(tower: Tower, picture: Picture, text: Tensor, name: str) -> None:
    image = picture(32, 48)
    together = VIT_METHODS[name](tower, image, text)
    apart = torch.cat([VIT_METHODS[name](tower, one[None], text) for one in image])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in VIT_METHODS if n not in ("clip-surgery", "resclip")])
def test_prompts_do_not_touch_each_other(
    tower: Tower, picture: Picture, text: Tensor, name: str
) -> None:
    together = VIT_METHODS[name](tower, picture(), text)
    apart = torch.cat([VIT_METHODS[name](tower, picture(), one[None]) for one in text], dim=1)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@names
def test_model_is_left_as_it_was(
    model: Any, tower: Tower, picture: Picture, text: Tensor, name: str
) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    VIT_METHODS[name](tower, picture(), text)
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None and p.requires_grad for p in model.visual.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_maskclip_is_the_last_value_alone(
    model: Any, tower: Tower, picture: Picture, text: Tensor
) -> None:
    visual = model.visual
    with torch.no_grad():
        x = visual._embeds(picture())
        for block in visual.transformer.resblocks[:-1]:
            x = block(x)
        last = visual.transformer.resblocks[-1]
        weight, bias = last.attn.in_proj_weight[2 * WIDTH :], last.attn.in_proj_bias[2 * WIDTH :]
        value = last.attn.out_proj(last.ln_1(x) @ weight.T + bias)
        expected = unit(text) @ unit(visual.ln_post(value) @ visual.proj)[:, 1:].transpose(1, 2)
    ours = VIT_METHODS["maskclip"](tower, picture(), text).flatten(2)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_query_key_row_is_torchs_own_attention(
    model: Any, tower: Tower, picture: Picture, text: Tensor
) -> None:
    visual = model.visual
    chosen = anchors(VIT_METHODS["patch-text"](tower, picture(), text))
    with torch.no_grad():
        x = visual._embeds(picture())
        for block in visual.transformer.resblocks[:-1]:
            x = block(x)
        normed = visual.transformer.resblocks[-1].ln_1(x)
        _, weights = visual.transformer.resblocks[-1].attn(normed, normed, normed)
    ours = VIT_METHODS["attention-qk"](tower, picture(), text).flatten(2)
    for b in range(2):
        for p in range(3):
            row = weights[b, 1 + chosen[b, p], 1:]
            torch.testing.assert_close(ours[b, p], row, rtol=1e-4, atol=1e-6)


def test_masked_anchor_and_log_scale(tower: Tower, picture: Picture, text: Tensor) -> None:
    vv = VIT_METHODS["attention-vv"]
    plain = vv(tower, picture(), text).flatten(2)
    masked = vv(tower, picture(), text, mask_anchor=True).flatten(2)
    chosen = anchors(VIT_METHODS["patch-text"](tower, picture(), text))[..., None]
    others = plain.scatter(-1, chosen, -1).amax(dim=-1)
    assert torch.equal(masked.gather(-1, chosen)[..., 0], others)
    assert int((masked != plain).sum(dim=-1).max()) <= 1
    logged = vv(tower, picture(), text, log=True).flatten(2)
    torch.testing.assert_close(logged.exp(), plain)


def surgery_literal(features: Tensor, text: Tensor) -> Tensor:
    """The authors' feature surgery for one image's unit tokens [T, E]: [T - 1, P]."""
    w = torch.softmax(2 * features[0] @ text.T, dim=-1)
    w = w / w.mean()
    products = features[:, None, :] * text[None] * w[None, :, None]
    return (products - products.mean(dim=1, keepdim=True)).sum(dim=-1)[1:]


def test_feature_surgery_is_the_authors_channelwise_one(text: Tensor) -> None:
    features = unit(torch.randn(17, JOINT, generator=torch.Generator().manual_seed(1)))
    cosines = (unit(text) @ features[1:].T).reshape(1, 3, 4, 4)
    ours = feature_surgery(cosines, features[:1] @ unit(text).T)
    expected = surgery_literal(features, unit(text)).T
    torch.testing.assert_close(ours[0].flatten(1), expected, rtol=1e-4, atol=1e-6)


def test_clip_surgery_of_one_prompt(tower: Tower, picture: Picture, text: Tensor) -> None:
    surgery = VIT_METHODS["clip-surgery"]
    one = surgery(tower, picture(), text[:1])
    assert float(one.std()) > 0
    less = surgery(tower, picture(), text[:1], empty=text[1])
    torch.testing.assert_close(less, one - surgery(tower, picture(), text[1:2]))


def test_table_names_the_options_of_each_method() -> None:
    assert VIT_METHODS["gem"].options == ("blocks", "iterations", "temperature", "surgery", "empty")
    assert VIT_METHODS["attention-vv"].options == ("mask_anchor", "log")
    assert VIT_METHODS["patch-text"].defaults == {"surgery": "none", "empty": None}
    assert VIT_METHODS["clip-surgery"].defaults["surgery"] == "auto"
    assert VIT_METHODS["gradcam"].options == ("block", "relu")
