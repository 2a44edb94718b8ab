from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.methods import RESNET_METHODS
from scalecli.localize.resnet import ResNetTower
from tests.localize.conftest import small_clip

Picture = Callable[..., Tensor]
SIDE, JOINT = 64, 24
names = pytest.mark.parametrize("name", list(RESNET_METHODS))


def small_resnet(size: int = SIDE) -> Any:
    torch.manual_seed(0)
    visual: Any = ModifiedResNet([1, 1, 1, 1], JOINT, heads=4, image_size=size, width=8)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in visual.named_buffers():
            if name.endswith("running_var"):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return visual.eval()


@pytest.fixture(scope="module")
def visual() -> Any:
    return small_resnet()


@pytest.fixture(scope="module")
def tower(visual: Any) -> ResNetTower:
    return ResNetTower(visual)


def test_pool_is_open_clips_own(
    visual: Any, tower: ResNetTower, picture: Picture, text: Tensor
) -> None:
    image = picture(SIDE, SIDE)
    with torch.no_grad():
        own = visual(image)
        ours = tower.tokens(image)[:, 0]
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5)
        expected = F.normalize(own, dim=-1) @ F.normalize(text, dim=-1).T
        torch.testing.assert_close(tower.scores(image, text), expected, rtol=1e-4, atol=1e-6)


def test_each_position_asks_the_pool_as_torch_does(
    visual: Any, tower: ResNetTower, picture: Picture, text: Tensor
) -> None:
    """patch-text against PyTorch's own multi-head attention with every token as a query."""
    pool, image = visual.attnpool, picture(SIDE, SIDE)
    with torch.no_grad():
        x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(image)))))
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(dim=0, keepdim=True), x]) + pool.positional_embedding[:, None]
        joint, _ = F.multi_head_attention_forward(
            x, x, x, x.shape[-1], pool.num_heads, None,
            torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
            None, None, False, 0.0, pool.c_proj.weight, pool.c_proj.bias,
            use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight, training=False,
        )  # fmt: skip
        expected = F.normalize(joint[1:], dim=-1) @ F.normalize(text, dim=-1).T
        values = pool.c_proj(pool.v_proj(x[1:]))
        masked = F.normalize(values, dim=-1) @ F.normalize(text, dim=-1).T
    ours = RESNET_METHODS["patch-text"](tower, image, text).flatten(2).permute(2, 0, 1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    maskclip = RESNET_METHODS["maskclip"](tower, image, text).flatten(2).permute(2, 0, 1)
    torch.testing.assert_close(maskclip, masked, rtol=1e-4, atol=1e-6)


def test_positions_are_resampled_as_for_vits(picture: Picture, text: Tensor) -> None:
    from timm.layers import resample_abs_pos_embed

    tower, image = ResNetTower(small_resnet()), picture(SIDE, 2 * SIDE)
    wide = ResNetTower(small_resnet())
    pool = wide.visual.attnpool
    learned = resample_abs_pos_embed(pool.positional_embedding[None], [2, 4], num_prefix_tokens=1)
    pool.positional_embedding = torch.nn.Parameter(learned[0].detach())
    wide.trained_grid = (2, 4)
    ours = RESNET_METHODS["patch-text"](tower, image, text)
    theirs = RESNET_METHODS["patch-text"](wide, image, text)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@names
@pytest.mark.parametrize("sides", [(64, 64), (64, 96), (128, 96)], ids=str)
def test_shape_batch_and_model(
    tower: ResNetTower, picture: Picture, text: Tensor, name: str, sides: Any
) -> None:
    visual = tower.visual
    before = {key: value.clone() for key, value in visual.state_dict().items()}
    image, method = picture(*sides), RESNET_METHODS[name]
    maps = method(tower, image, text)
    assert maps.shape == (2, 3, sides[0] // 32, sides[1] // 32)
    assert maps.dtype == torch.float32
    assert bool(maps.isfinite().all())
    apart = torch.cat([method(tower, one[None], text) for one in image])
    torch.testing.assert_close(maps, apart, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in visual.state_dict().items())
    assert not any(m._forward_hooks for m in visual.modules())


def test_gradcam_equals_autograd_on_the_whole_tower(
    visual: Any, tower: ResNetTower, picture: Picture, text: Tensor
) -> None:
    image = picture(SIDE, SIDE)
    below = torch.nn.Sequential(visual.layer1, visual.layer2, visual.layer3)
    features = below(visual.stem(image)).detach().requires_grad_()
    pooled = F.normalize(visual.attnpool(visual.layer4(features)), dim=-1)
    (gradient,) = torch.autograd.grad((pooled @ F.normalize(text[1], dim=-1)).sum(), features)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)
    ours = RESNET_METHODS["gradcam"](tower, image, text, layer="layer3", relu=False)[:, 1]
    assert float(ours.std()) > 0
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-3, atol=1e-7)


def test_what_is_not_there_is_refused(tower: ResNetTower, picture: Picture, text: Tensor) -> None:
    with pytest.raises(UsageError, match="multiples of 32×32"):
        tower.features(picture(64, 65))
    with pytest.raises(UsageError, match="stages: layer1, layer2"):
        RESNET_METHODS["gradcam"](tower, picture(64, 64), text, layer="layer5")
    with pytest.raises(UsageError, match="not a CLIP ResNet"):
        ResNetTower(small_clip().visual)
    with pytest.raises(ValueError, match="training mode"):
        ResNetTower(small_resnet().train())
