from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.load import applicable
from scalecli.localize.methods import CNN_METHODS, TIMM_METHODS
from scalecli.localize.timm_tower import TimmTower
from tests.localize.conftest import JOINT

Picture = Callable[..., Tensor]
SMALL = {"depth": 3, "embed_dim": 32, "num_heads": 2, "img_size": 64}


def shaken(model: Any) -> Any:
    """No parameter at its initial zero or one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def siglip() -> TimmTower:
    torch.manual_seed(0)
    trunk = timm.create_model(
        "vit_base_patch16_siglip_224", num_classes=0, global_pool="map", **SMALL
    )
    return TimmTower(shaken(trunk))


def eva() -> TimmTower:
    torch.manual_seed(0)
    trunk = timm.create_model(
        "eva02_base_patch16_clip_224", num_classes=JOINT, global_pool="token", **SMALL
    )
    return TimmTower(shaken(trunk))


def convnext_clip() -> TimmTower:
    torch.manual_seed(0)
    visual = shaken(TimmModel("convnext_atto", JOINT, image_size=64, pool="", proj="linear"))
    return TimmTower(visual.trunk, visual.head)


def mobileclip() -> TimmTower:
    """Average pooling before one linear layer, as FastViT's head in MobileCLIP."""
    torch.manual_seed(0)
    visual = shaken(TimmModel("resnet10t", JOINT, image_size=64, pool="avg", proj=""))
    return TimmTower(visual.trunk, visual.head)


KINDS = {"siglip": siglip, "eva": eva, "convnext-clip": convnext_clip, "mobileclip": mobileclip}
kinds = pytest.mark.parametrize("kind", list(KINDS))


@pytest.fixture(scope="module")
def towers() -> dict[str, TimmTower]:
    return {kind: make() for kind, make in KINDS.items()}


def embedding_width(tower: TimmTower) -> int:
    with torch.no_grad():
        return tower.pooled(tower.features(torch.zeros(1, 3, 64, 64))).shape[-1]


@kinds
def test_scores_are_the_models_own(
    towers: dict[str, TimmTower], kind: str, picture: Picture
) -> None:
    tower, image = towers[kind], picture(64, 64)
    text = torch.randn(3, embedding_width(tower), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        own = F.normalize(tower.head(tower.trunk(image)), dim=-1) @ F.normalize(text, dim=-1).T
        ours = tower.scores(image, text)
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-6)


def test_siglips_patches_take_the_value_path(
    towers: dict[str, TimmTower], picture: Picture
) -> None:
    """Value half of kv, proj, then + mlp(norm): written out for every patch."""
    tower, image = towers["siglip"], picture(64, 64)
    pool = tower.trunk.attn_pool
    with torch.no_grad():
        tokens = tower.trunk.forward_features(image)
        x = pool.proj(pool.kv(tokens)[..., 32:])
        expected = x + pool.mlp(pool.norm(x))
        ours = tower.alone(tower.features(image), (4, 4)).flatten(1, 2)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_cam_of_average_pooling_is_patch_text_exactly(
    towers: dict[str, TimmTower], picture: Picture
) -> None:
    tower, image = towers["mobileclip"], picture(64, 96)
    text = torch.randn(3, JOINT, generator=torch.Generator().manual_seed(7))
    assert tower.additive
    maps = TIMM_METHODS["cam"](tower, image, text)
    with torch.no_grad():
        pooled = tower.head(tower.trunk(image))
        positions = tower.trunk.fc(tower.trunk.forward_features(image).permute(0, 2, 3, 1))
    torch.testing.assert_close(maps.mean(dim=(2, 3)), pooled @ text.T, rtol=1e-4, atol=1e-5)
    cosines = F.normalize(positions, dim=-1) @ F.normalize(text, dim=-1).T
    ours = TIMM_METHODS["patch-text"](tower, image, text)
    torch.testing.assert_close(ours, cosines.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-6)


def test_cam_is_offered_where_it_applies(towers: dict[str, TimmTower]) -> None:
    offered = {kind: "cam" in applicable(tower, TIMM_METHODS) for kind, tower in towers.items()}
    assert offered == {"siglip": False, "eva": False, "convnext-clip": False, "mobileclip": True}


@kinds
@pytest.mark.parametrize("name", ["patch-text", "gradcam"])
@pytest.mark.parametrize("sides", [(64, 64), (64, 96), (128, 96)], ids=str)
def test_any_size_batch_and_model(
    towers: dict[str, TimmTower], kind: str, name: str, sides: tuple[int, int], picture: Picture
) -> None:
    tower, image, method = towers[kind], picture(*sides), TIMM_METHODS[name]
    text = torch.randn(3, embedding_width(tower), generator=torch.Generator().manual_seed(7))
    before = {key: value.clone() for key, value in tower.trunk.state_dict().items()}
    identities = {key: id(value) for key, value in tower.trunk.named_parameters()}
    maps = method(tower, image, text)
    assert maps.shape == (2, 3, *tower.grid(image))
    assert maps.dtype == torch.float32
    assert float(maps.std()) > 0
    apart = torch.cat([method(tower, one[None], text) for one in image])
    torch.testing.assert_close(maps, apart, rtol=1e-3, atol=1e-6)
    after = tower.trunk.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert identities == {key: id(value) for key, value in tower.trunk.named_parameters()}
    assert tower.trunk.training is False
    assert not any(m._forward_hooks for m in tower.trunk.modules())


@pytest.mark.parametrize("kind", ["siglip", "eva"])
def test_other_sizes_equal_a_model_resized_for_good(kind: str, picture: Picture) -> None:
    image = picture(64, 96)
    tower, other = KINDS[kind](), KINDS[kind]()
    text = torch.randn(3, embedding_width(tower), generator=torch.Generator().manual_seed(7))
    other.trunk.set_input_size(img_size=(64, 96))
    with torch.no_grad():
        own = F.normalize(other.head(other.trunk(image)), dim=-1) @ F.normalize(text, dim=-1).T
        ours = tower.scores(image, text)
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-6)
    # The resized copy shares what it can: only positions are its own.
    copied = dict(tower.at((64, 96)).named_parameters())
    own_now = {key for key, p in tower.trunk.named_parameters() if copied[key] is not p}
    assert own_now == {"pos_embed"}


def test_prefixes_end_after_each_block(towers: dict[str, TimmTower], picture: Picture) -> None:
    tower, image = towers["siglip"], picture(64, 96)
    found = list(tower.prefixes())
    assert len(found) == len(tower.layers) == 3
    with torch.no_grad():
        trunk = tower.at((64, 96))
        x = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(image))))
        for part, block in zip(found, trunk.blocks, strict=True):
            x = block(x)
            torch.testing.assert_close(part.features(image), trunk.norm(x))
    assert list(towers["convnext-clip"].prefixes()) == []


def test_classifiers_score_with_their_own_rows(picture: Picture) -> None:
    for name, sides in (("resnet10t", (64, 96)), ("vit_tiny_patch16_224", (224, 224))):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10).eval()
        tower = TimmTower(model, pre_logits=True, unit=False)
        linear = model.get_classifier()
        with torch.no_grad():
            scores = tower.scores(picture(*sides), linear.weight) + linear.bias
            torch.testing.assert_close(scores, model(picture(*sides)), rtol=1e-4, atol=1e-5)
        maps = CNN_METHODS["patch-text"](tower, picture(*sides), linear.weight)
        assert maps.shape[2:] == tower.grid(picture(*sides))


def test_what_is_not_there_is_refused(towers: dict[str, TimmTower], picture: Picture) -> None:
    with pytest.raises(UsageError, match="multiples of 16×16"):
        towers["siglip"].features(picture(64, 65))
    with pytest.raises(UsageError, match=r"stages: blocks\.0\.norm1"):
        towers["siglip"].layer("blocks.9", picture(64, 64))
    with pytest.raises(ValueError, match="training mode"):
        TimmTower(timm.create_model("resnet10t").train())
    with pytest.raises(UsageError, match="not laid out as timm's"):
        TimmTower(torch.nn.Linear(2, 2).eval())
    for name in ("cait_xxs24_224", "mixer_s32_224"):
        fixed = TimmTower(timm.create_model(name).eval(), pre_logits=True, unit=False)
        with pytest.raises(UsageError, match="own size only; use --size 224x224"):
            fixed.features(picture(64, 64))
