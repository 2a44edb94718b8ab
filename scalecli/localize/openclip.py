"""open_clip models: what a name stands for, decided before anything is built.

open_clip runs a checkpoint with whatever activation the model's name implies and only warns that
28 of its 196 pairs of model and tag do not match. Here the checkpoint decides: its activation, its
pixels' statistics, its tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from scalecli.core.errors import UsageError, did_you_mean
from scalecli.localize.encoder import InputSpec
from scalecli.localize.hub import fetch

RANDOM = ("none", "")
"""What asks for random weights: never a default."""
LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
"""Checkpoint names in order of preference: safetensors hold numbers only."""


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class Plan:
    """Everything that decides what will run."""

    label: str
    """For tables, e.g. ``ViT-B-16-quickgelu (openai)``."""
    config: dict[str, Any]
    """open_clip's model configuration, with the activation of the checkpoint."""
    preprocess: dict[str, Any]
    """open_clip's preprocessing configuration."""
    tokenizer: str
    """The name that open_clip's ``get_tokenizer`` takes."""
    file: Path | None = None
    """A local checkpoint."""
    repo: str = ""
    """Repository of the hub that holds the checkpoint, unless ``file`` is given."""
    names: tuple[str, ...] = WEIGHTS
    """File names to try there."""
    origin: str = ""
    """Where the weights come from, for people."""
    notes: tuple[str, ...] = field(default=())

    def weights(self) -> Path | None:
        """The checkpoint file, fetched if need be; None for random weights."""
        return fetch(self.repo, self.names) if self.repo else self.file

    def input(self) -> InputSpec:
        """How the checkpoint wants its pixels."""
        size = self.preprocess.get("size") or self.config["vision_cfg"].get("image_size") or 224
        return InputSpec(
            _three(self.preprocess["mean"]),
            _three(self.preprocess["std"]),
            min(size) if isinstance(size, list | tuple) else int(size),
            str(self.preprocess.get("interpolation", "bicubic")).replace("random", "bicubic"),
        )


def plan(model: str, pretrained: str) -> Plan:
    """What a model name and a tag, file or ``none`` stand for.

    Nothing is built, and the hub is asked for nothing but the config of an ``hf-hub:`` name.

    Raises:
        UsageError: unknown model, tag, folder or file; the closest names where there are such.
        HubUnreachable: ``hf-hub:`` names whose config is not cached.
    """
    if model.startswith((LOCAL, HUB)):
        if pretrained not in ("auto", *RANDOM):
            raise UsageError(f"--pretrained {pretrained}: {model} brings its own weights")
        made = _folder(model) if model.startswith(LOCAL) else _hub(model)
        return _random(made) if pretrained in RANDOM else made
    return _named(model, pretrained)


def _named(model: str, pretrained: str) -> Plan:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    name = model.replace("/", "-")
    config = open_clip.get_model_config(name)
    if config is None:
        known = [*open_clip.list_models(), "embedded", "shapes", "auto"]
        raise UsageError(f"--model {model}: unknown; {did_you_mean(model, known)}")
    made = Plan(name, config, _default_preprocess(config), name)
    if pretrained in RANDOM:
        return _random(made)
    base = name.removesuffix("-quickgelu")
    tags = [*open_clip.list_pretrained_tags_by_model(base)]
    tags += [t for t in open_clip.list_pretrained_tags_by_model(name) if t not in tags]
    if pretrained == "auto":
        if not tags:
            raise UsageError(
                f"--model {model}: open_clip knows no weights for it; "
                "give --pretrained FILE, or --pretrained none for random weights"
            )
        pretrained = "openai" if "openai" in tags else tags[0]
    tag = get_pretrained_cfg(name, pretrained) or get_pretrained_cfg(base, pretrained)
    if tag:
        repo, names = _hub_file(tag["hf_hub"])
        activated = _activated(made, bool(tag.get("quick_gelu")))
        return replace(
            activated,
            label=f"{activated.label} ({pretrained})",
            preprocess={**made.preprocess, **_pixels(tag)},
            repo=repo,
            names=names,
            origin=f"{repo} on the model hub",
        )
    file = Path(pretrained).expanduser()
    if file.is_file():
        return _from_file(made, file)
    if "/" in pretrained or file.suffix:
        raise UsageError(f"--pretrained {pretrained}: no such file")
    raise UsageError(
        f"--pretrained {pretrained}: {name} has none; {did_you_mean(pretrained, tags)}"
    )


def _from_file(made: Plan, file: Path) -> Plan:
    labelled = replace(made, label=f"{made.label} ({file.name})", file=file, origin=str(file))
    known = _published(file)
    if known:
        activated = _activated(labelled, bool(known.get("quick_gelu")))
        return replace(activated, preprocess={**made.preprocess, **_pixels(known)})
    if made.config.get("quick_gelu") or not _ambiguous(made.config):
        return labelled
    note = (
        f"{file.name} does not say which activation it was trained with: GELU, as {made.label} "
        f"says; weights of OpenAI, MetaCLIP or DFN need --model {made.label}-quickgelu"
    )
    return replace(labelled, notes=(note,))


def _folder(model: str) -> Plan:
    path = Path(model.removeprefix(LOCAL)).expanduser()
    if not path.is_dir():
        raise UsageError(f"--model {model}: no such folder")
    made = _from_config(model, path / CONFIG)
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    file = file or next(iter(sorted(path.glob("*.safetensors"))), None)
    if file is None:
        raise UsageError(f"--model {model}: the folder holds no {WEIGHTS[0]}")
    # A folder fetched from the hub tells by its name, or by its cache folder's, what it is.
    known = _published(path / "x")
    made = replace(made, file=file, origin=str(file))
    return _activated(made, bool(known.get("quick_gelu"))) if known else made


def _hub(model: str) -> Plan:
    repo = model.removeprefix(HUB)
    if repo.count("/") != 1:
        raise UsageError(f"--model {model}: write hf-hub:ORGANISATION/NAME")
    made = replace(
        _from_config(model, fetch(repo, [CONFIG])), repo=repo, origin=f"{repo} on the model hub"
    )
    known = _published(Path(repo) / "x")
    return _activated(made, bool(known.get("quick_gelu"))) if known else made


def _from_config(model: str, path: Path) -> Plan:
    """A plan from an ``open_clip_config.json``."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"--model {model}: {path.name} is missing; open_clip's push_to_hf_hub writes it"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error
    config = loaded.get("model_cfg") if isinstance(loaded, dict) else None
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise UsageError(f"{path}: has no 'model_cfg' with embed_dim, vision_cfg and text_cfg")
    pixels = _pixels(loaded.get("preprocess_cfg") or {})
    return Plan(model, config, {**_default_preprocess(config), **pixels}, model)


def _random(made: Plan) -> Plan:
    note = f"{made.label}: random weights, as --pretrained none says; maps mean nothing"
    return replace(
        made,
        label=f"{made.label} (random)",
        file=None,
        repo="",
        origin="random weights",
        notes=(note,),
    )


def _activated(made: Plan, quick: bool) -> Plan:
    """The plan with the activation its checkpoint was trained with."""
    if bool(made.config.get("quick_gelu")) == quick:
        return made
    base = made.label.removesuffix("-quickgelu")
    label = f"{base}-quickgelu" if quick and not made.label.startswith((LOCAL, HUB)) else base
    return replace(made, label=label, config={**made.config, "quick_gelu": quick})


def _ambiguous(config: Mapping[str, Any]) -> bool:
    """Whether open_clip's own layers, which have the choice of activation, are used."""
    return (
        "timm_model_name" not in config["vision_cfg"] or "hf_model_name" not in config["text_cfg"]
    )


def _published(file: Path) -> Mapping[str, Any]:
    """open_clip's entry for a checkpoint it knows by file name, folder or repository."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    for model, tag in list_pretrained():
        entry: dict[str, Any] = get_pretrained_cfg(model, tag)
        repo, _ = _hub_file(entry["hf_hub"])
        folder = PurePosixPath(repo).name
        # A folder of the hub's cache: models--ORG--NAME/snapshots/REVISION.
        inside = (folder, "models--" + repo.replace("/", "--"))
        if any(part in inside for part in file.absolute().parts[:-1]):
            return entry
        if entry.get("url") and file.name == PurePosixPath(entry["url"]).name:
            return entry
    return {}


def _hub_file(hf_hub: str) -> tuple[str, tuple[str, ...]]:
    """Repository and file names of a tag's ``hf_hub``: ``org/name/`` or ``org/name/file``."""
    repo, _, name = hf_hub.rpartition("/")
    if not name:
        return repo, WEIGHTS
    return repo, (str(PurePosixPath(name).with_suffix(".safetensors")), name)


def _default_preprocess(config: Mapping[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from open_clip.transform import PreprocessCfg

    found = asdict(PreprocessCfg())
    return {**found, "size": deepcopy(config["vision_cfg"].get("image_size", 224))}


def _pixels(entry: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("mean", "std", "interpolation", "resize_mode", "size")
    return {key: entry[key] for key in keys if entry.get(key) is not None}


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def build(made: Plan) -> Any:
    """The model of a plan, with random weights, in evaluation mode."""
    from open_clip import CLIP, CoCa, CustomTextCLIP

    config = deepcopy(made.config)
    text, vision = config["text_cfg"], config["vision_cfg"]
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    kind = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    # Random weights, where they are asked for, are the same in every run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**config).eval()


def tokenizer(made: Plan) -> Any:
    """The tokenizer of a plan: sentences to token ids [P, L].

    Raises:
        UsageError: a folder lacks its files.
        HubUnreachable: they are neither bundled nor cached, and no hub answers.
    """
    from open_clip import get_tokenizer

    text = made.config["text_cfg"]
    if made.tokenizer.startswith(LOCAL) and text.get("hf_tokenizer_name"):
        folder = Path(made.tokenizer.removeprefix(LOCAL)).expanduser()
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise UsageError(
                f"--model {made.tokenizer}: the folder lacks the tokenizer's files "
                f"({TOKENIZER_FILES[0]} and others of {text['hf_tokenizer_name']})"
            )
    elif text.get("hf_tokenizer_name"):
        # Where the hub cannot be reached it is this that says so, in one line and once.
        fetch(text["hf_tokenizer_name"], TOKENIZER_FILES)
    try:
        return get_tokenizer(made.tokenizer)
    except ImportError as error:
        raise UsageError(
            f"{made.label}: its tokenizer needs transformers: pip install transformers"
        ) from error
    except (OSError, ValueError) as error:
        # transformers' messages are paragraphs.
        raise UsageError(
            f"{made.label}: its tokenizer ({text.get('hf_tokenizer_name')}) cannot be read: "
            f"{str(error).splitlines()[0][:120]}"
        ) from error


def cuts(tokenize: Any, sentence: str) -> bool:
    """Whether a tokenizer drops the end of a sentence."""
    most = getattr(tokenize, "context_length", None)
    if most is None:
        return False
    inner = getattr(tokenize, "tokenizer", None)  # of transformers; counts its special tokens
    count = len(inner(sentence)["input_ids"]) if inner else len(tokenize.encode(sentence)) + 2
    return bool(count > most)
