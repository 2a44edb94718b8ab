"""One door to every encoder: a :class:`ModelConfig` in, an :class:`Encoder` out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalecli.core.devices import resolve_device
from scalecli.core.errors import UsageError
from scalecli.localize import hub, openclip
from scalecli.localize.checkpoints import load_weights
from scalecli.localize.encoder import Encoder, InputSpec, Subject
from scalecli.localize.methods import (
    CNN_METHODS,
    RESNET_METHODS,
    TIMM_METHODS,
    VIT_METHODS,
    Method,
)
from scalecli.localize.model_config import ModelConfig
from scalecli.localize.resnet import ResNetTower
from scalecli.localize.textcache import CachedText
from scalecli.localize.timm_tower import TimmTower
from scalecli.localize.vit import Tower

AUTO = ("ViT-B-16", "openai")
"""What ``auto`` takes if its weights are at hand: the article's and GEM's own model."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXTS_AT_ONCE = 256
TIMM = "timm:"


def load_encoder(config: ModelConfig) -> Encoder:
    """The encoder that a config names, ready on its device.

    Raises:
        UsageError: unknown names, unfit or unsafe checkpoints, a device that is not there.
        HubUnreachable: weights that are not cached, and no hub.
        ScalecliError: damaged files.
    """
    if config.proxy:
        return with_proxy(load_encoder(replace(config, proxy="")), config)
    resolve_device(config.device)
    if config.offline:
        hub.go_offline()
    if config.model == "auto":
        return _auto(config)
    if config.model == "embedded":
        if config.pretrained != "auto":
            raise UsageError(
                f"--pretrained {config.pretrained}: --model embedded brings its own weights"
            )
        return embedded_encoder(config)
    if config.model == "shapes":
        return shapes_encoder(config)
    if config.model.startswith(TIMM):
        return timm_encoder(config)
    return clip_encoder(config)


def _auto(config: ModelConfig) -> Encoder:
    if config.pretrained != "auto":
        raise UsageError(
            f"--pretrained {config.pretrained}: name its --model, for example ViT-B-16"
        )
    model, pretrained = AUTO
    try:
        encoder = clip_encoder(replace(config, model=model, pretrained=pretrained))
    except hub.HubUnreachable as unreachable:
        reason = str(unreachable).removesuffix(f"; {hub.WAYS_OUT}")
        try:
            encoder = embedded_encoder(config)
        except UsageError as missing:
            raise UsageError(f"--model auto: {reason}; {missing}") from unreachable
        note = f"--model auto: the embedded model, because {reason}"
    else:
        note = f"--model auto: {encoder.name}, whose weights are at hand"
    return replace(encoder, notes=(note, *encoder.notes))


def with_proxy(encoder: Encoder, config: ModelConfig) -> Encoder:
    """The encoder with ``proxyclip`` among its methods.

    Raises:
        UsageError: it is no CLIP ViT, or the second encoder is no timm ViT.
        HubUnreachable: the second encoder's weights are neither cached nor to be had.
    """
    from scalecli.localize.methods.proxyclip import load_proxy, proxy_method

    if not isinstance(encoder.subject, Tower):
        raise UsageError(f"--proxy {config.proxy}: proxyclip needs a CLIP ViT, not {encoder.name}")
    proxy = load_proxy(
        config.proxy, config.proxy_pretrained, encoder.input, encoder.device, encoder.dtype
    )
    return replace(
        encoder,
        methods={**encoder.methods, "proxyclip": proxy_method(proxy)},
        fingerprint=f"{encoder.fingerprint}-{fingerprint(proxy.model)}",
        notes=(*encoder.notes, f"proxyclip: affinity of {proxy.label}"),
    )


def clip_encoder(config: ModelConfig) -> Encoder:
    """An open_clip model by name, folder or hub repository."""
    plan = openclip.plan(config.model, config.pretrained)
    file = plan.weights()
    tokenize = openclip.tokenizer(plan)
    model = openclip.build(plan)
    if file is not None:
        load_weights(model, file)
    about = f"{plan.label}: open_clip, {plan.origin}"
    return encoder_of(
        model, tokenize, plan.input(), config, name=plan.label, about=about, notes=plan.notes
    )


def encoder_of(
    model: Any,
    tokenize: Any,
    spec: InputSpec,
    config: ModelConfig,
    *,
    name: str,
    about: str,
    notes: tuple[str, ...] = (),
) -> Encoder:
    """An encoder from an open_clip model and its tokenizer."""
    device = torch.device(resolve_device(config.device))
    dtype = DTYPES[config.precision]
    model = model.eval().requires_grad_(False).to(device)
    identity = fingerprint(model)
    model.visual.to(dtype)
    subject, methods = subject_of(model.visual)
    scale = getattr(model, "logit_scale", None)
    return Encoder(
        name=name,
        about=about,
        fingerprint=identity,
        subject=subject,
        methods=methods,
        input=spec,
        encode=CachedText(_clip_text(model, tokenize, device), identity),
        logit_scale=float(scale.exp()) if scale is not None else 1.0,
        cuts=partial(openclip.cuts, tokenize),
        notes=notes,
        device=device,
        dtype=dtype,
    )


def subject_of(visual: Any) -> tuple[Subject, Mapping[str, Method]]:
    """The image tower of an open_clip model taken apart, and the methods that apply to it."""
    if hasattr(visual, "trunk"):
        tower = TimmTower(visual.trunk, visual.head)
        return tower, applicable(tower, TIMM_METHODS)
    if hasattr(visual, "attnpool"):
        return ResNetTower(visual), RESNET_METHODS
    return Tower(visual), VIT_METHODS


def applicable(tower: TimmTower, methods: Mapping[str, Method]) -> dict[str, Method]:
    """A table without what the network's pooling makes wrong, or the same as something else.

    CAM is for scores that are means over positions. For logits it *is* the score of every
    position alone, which is left out then; cosines differ.
    """
    wrong = {"cam", "multiscale-cam"} if not tower.additive else set()
    same = {"patch-text"} if tower.additive and not tower.unit else set()
    return {name: m for name, m in methods.items() if name not in wrong | same}


def _clip_text(
    model: Any, tokenize: Callable[[Sequence[str]], Tensor], device: torch.device
) -> Callable[[Sequence[str]], Tensor]:
    def encode(sentences: Sequence[str]) -> Tensor:
        parts = []
        with torch.no_grad():
            for start in range(0, len(sentences), TEXTS_AT_ONCE):
                tokens = tokenize(list(sentences[start : start + TEXTS_AT_ONCE]))
                parts.append(model.encode_text(tokens.to(device)).float().cpu())
        return torch.cat(parts)

    return encode


def shapes_encoder(config: ModelConfig) -> Encoder:
    """The small CLIP that the package trains on scenes it draws: shipped, or the user's own.

    Raises:
        UsageError: ``--pretrained`` is no folder of a finished ``train-shapes``.
    """
    from scalecli.localize.shapes import load_shapes
    from scalecli.localize.shapes.scenes import COLOURS, SHAPES

    own = None if config.pretrained == "auto" else Path(config.pretrained).expanduser()
    model, tokenize, spec = load_shapes(own)
    name = "shapes" if own is None else f"shapes ({own.name})"
    about = f"{name}: a small CLIP trained by this package on scenes it draws"
    encoder = encoder_of(model, tokenize, spec, config, name=name, about=about)
    phrases = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
    return replace(encoder, common=phrases)


def embedded_encoder(config: ModelConfig) -> Encoder:
    """EfficientNet-Lite0 that takes any text for a class."""
    from scalecli.localize import embedded
    from scalecli.localize.class_words import (
        TEMPLATE,
        ClassWords,
        centred_rows,
        imagenet_classes,
    )

    cnn = embedded.load_cnn()
    encode = embedded.sentence_encoder()
    words = ClassWords(centred_rows(cnn), imagenet_classes(), encode, exact=False)
    device = torch.device(resolve_device(config.device))
    dtype = DTYPES[config.precision]
    # Folded before it is rounded to the dtype.
    subject = TimmTower(embedded.faster(cnn).to(device, dtype), pre_logits=True, unit=False)
    return Encoder(
        name="embedded",
        about="embedded: EfficientNet-Lite0 (ImageNet-1k) that takes any text for a class through "
        "MiniLM sentence embeddings; a model of the DeViSE kind, not CLIP",
        fingerprint=embedded.CNN_WEIGHTS.sha256[:16] + embedded.TEXT_WEIGHTS.sha256[:16],
        subject=subject,
        methods=applicable(subject, CNN_METHODS),
        input=InputSpec(embedded.MEAN, embedded.STD, 224),
        encode=words,
        templates=(TEMPLATE,),
        unit_text=False,
        device=device,
        dtype=dtype,
    )


def timm_encoder(config: ModelConfig) -> Encoder:
    """A timm classifier, CNN or ViT, of ImageNet's classes."""
    from scalecli.localize import classifiers

    plan = classifiers.plan(config.model.removeprefix(TIMM), config.pretrained)
    model = classifiers.build(plan)
    words = classifiers.words(model)
    device = torch.device(resolve_device(config.device))
    dtype = DTYPES[config.precision]
    identity = fingerprint(model)
    subject = TimmTower(model.to(device, dtype), pre_logits=True, unit=False)
    return Encoder(
        name=plan.label,
        about=f"{plan.label}: timm classifier, {plan.origin}",
        fingerprint=identity,
        subject=subject,
        methods=applicable(subject, CNN_METHODS),
        input=classifiers.input_spec(model),
        encode=words,
        templates=("{}",),
        unit_text=False,
        # Without a sentence encoder there are no words but those of the classes.
        common=None if words.encode else tuple(names[0] for names in words.classes.names[::5]),
        notes=plan.notes,
        device=device,
        dtype=dtype,
    )


def fingerprint(model: nn.Module) -> str:
    """Hash of every weight and of the layout, which includes the activation."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
