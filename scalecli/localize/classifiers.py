"""timm classifiers by name: their weights, their pixels, their words."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalecli.core.errors import UsageError, did_you_mean
from scalecli.localize.checkpoints import read_state
from scalecli.localize.class_words import ClassWords, centred_rows, imagenet_classes
from scalecli.localize.encoder import InputSpec
from scalecli.localize.hub import fetch

RANDOM = ("none", "")
SAFETENSORS = "model.safetensors"


@dataclass(frozen=True)
class Plan:
    """What a timm name and ``--pretrained`` stand for."""

    name: str
    """timm's name, tag included."""
    label: str
    file: Path | None
    origin: str
    notes: tuple[str, ...] = ()


def plan(name: str, pretrained: str) -> Plan:
    """What a timm name and a tag, a file or ``none`` stand for; weights are fetched if need be.

    Raises:
        UsageError: unknown name, tag or file; the closest names.
        HubUnreachable: weights neither cached nor to be had.
    """
    import timm
    from timm.models import get_pretrained_cfg

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise UsageError(f"timm:{name}: unknown; {did_you_mean(base, timm.list_models())}")
    if pretrained in RANDOM:
        note = f"timm:{name}: random weights, as --pretrained none says; maps mean nothing"
        return Plan(base, f"timm:{base} (random)", None, "random weights", (note,))
    file = Path(pretrained).expanduser()
    if pretrained != "auto" and file.is_file():
        return Plan(base, f"timm:{name} ({file.name})", file, str(file))
    if pretrained != "auto" and ("/" in pretrained or file.suffix in (".pth", ".bin", ".pt")):
        raise UsageError(f"--pretrained {pretrained}: no such file")
    tag = tag if pretrained == "auto" else pretrained
    full = f"{base}.{tag}" if tag else base
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise UsageError(f"timm:{base} has no weights '{tag}'; {did_you_mean(tag, tags)}")
    about = get_pretrained_cfg(full)
    repo = getattr(about, "hf_hub_id", None)
    if not repo:
        raise UsageError(
            f"timm:{full} has no weights on the model hub; give --pretrained FILE or none"
        )
    names = tuple(n for n in (SAFETENSORS, about.hf_hub_filename, "pytorch_model.bin") if n)
    found = fetch(repo, names)
    return Plan(full, f"timm:{Path(repo).name}", found, f"{repo} on the model hub")


def build(made: Plan, **options: Any) -> Any:
    """The classifier of a plan, in evaluation mode; options are those of its timm class.

    Raises:
        UsageError: the checkpoint is unsafe or belongs to another architecture.
        ScalecliError: it is damaged.
    """
    import timm

    if made.file is None:
        model = timm.create_model(made.name, pretrained=False, **options)
    else:
        state = read_state(made.file)
        try:
            model = timm.create_model(
                made.name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **options
            )
        except (RuntimeError, KeyError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UsageError(
                f"{made.file.name}: does not fit {made.name}: {lines[-1][:120]}"
            ) from error
    return model.eval().requires_grad_(False)


def input_spec(model: Any) -> InputSpec:
    """How the classifier wants its pixels."""
    from timm.data import resolve_model_data_config

    found = resolve_model_data_config(model)
    size = found["input_size"][-2:]
    way = "bilinear" if found["interpolation"] == "bilinear" else "bicubic"
    return InputSpec(tuple(found["mean"]), tuple(found["std"]), min(size), way)


def words(model: Any) -> ClassWords:
    """Texts to the classifier's vectors.

    Raises:
        UsageError: its classes are not ImageNet's, or it has no vector per class.
    """
    from timm.data import infer_imagenet_subset

    from scalecli.localize import embedded

    subset = infer_imagenet_subset(model)
    if subset is None:
        raise UsageError(
            f"{type(model).__name__} tells {model.num_classes} classes apart, which are no known "
            "set of ImageNet's; words need their names"
        )
    installed = importlib.util.find_spec(embedded.TEXT_WEIGHTS.package) is not None
    return ClassWords(
        centred_rows(model),
        imagenet_classes(subset),
        embedded.sentence_encoder() if installed else None,
        install=embedded.INSTALL,
    )
