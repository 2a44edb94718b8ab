"""Who takes part in a run: the dataset under a protocol, and every model with its methods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalecli.core.errors import UsageError, did_you_mean
from scalecli.localize.encoder import Encoder
from scalecli.localize.evaluation.config import ALL, EvalConfig, Variant, parse_variant
from scalecli.localize.evaluation.datasets import Dataset, open_dataset
from scalecli.localize.evaluation.protocol import (
    Protocol,
    Vocabulary,
    load_protocol,
    vocabulary,
)


@dataclass(frozen=True)
class Problem:
    """What is asked of every image, whatever the model."""

    dataset: Dataset
    protocol: Protocol
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Contender:
    """One model with the methods it runs and the prompts in its own terms."""

    encoder: Encoder
    variants: tuple[Variant, ...]
    text: Tensor
    """[P, E]."""
    spec: str
    """As named on the command line."""

    @property
    def logit_scale(self) -> float:
        """The model's own."""
        return self.encoder.logit_scale


def open_problem(config: EvalConfig) -> Problem:
    """The dataset under the protocol.

    Raises:
        UsageError: either is unknown, or they do not fit each other.
    """
    protocol = load_protocol(config.protocol_name, config.change)
    dataset = open_dataset(
        config.dataset,
        limit=config.limit,
        split=config.split,
        seed=config.seed,
        things=protocol.things,
    )
    words = vocabulary(protocol, dataset.classes, background=dataset.background)
    return Problem(dataset, protocol, words)


def contenders(config: EvalConfig, problem: Problem) -> tuple[list[Contender], list[str]]:
    """The models, loaded, and notes on what was left out and how they were loaded.

    Raises:
        UsageError: a method that applies to none of the models, or an unknown option.
    """
    from scalecli.localize.load import load_encoder

    asked = [parse_variant(label) for label in config.method]
    found: list[Contender] = []
    notes: list[str] = []
    for spec, model in zip(config.model, config.models(), strict=True):
        encoder = load_encoder(model)
        notes += encoder.notes
        text = encoder.text(problem.vocabulary.words, problem.protocol.sentences())
        variants: dict[str, Variant] = {}
        for variant in asked:
            if variant.method == ALL:
                able, why = _able(encoder, text[:1])
                notes += why
                variants |= {name: Variant(name, name, {}) for name in able}
            elif variant.method in encoder.methods:
                _check_options(encoder, variant)
                variants[variant.label] = variant
            elif len(config.model) == 1:
                encoder.method(variant.method)  # raises, naming those that apply
            else:
                notes.append(f"{variant.method} does not apply to {encoder.name}: left out there")
        found.append(Contender(encoder, tuple(variants.values()), text, spec))
    served = {variant.method for contender in found for variant in contender.variants}
    for variant in asked:
        if variant.method not in served | {ALL}:
            near = did_you_mean(
                variant.method, sorted({m for c in found for m in c.encoder.methods})
            )
            raise UsageError(f"--method {variant.method}: applies to none of the models; {near}")
    return found, notes


def _able(encoder: Encoder, text: Tensor) -> tuple[list[str], list[str]]:
    """The methods that `all` means for a model, and why others are left out."""
    able, why = [], []
    blank = torch.zeros(1, 3, *[encoder.input.size // p * p for p in encoder.subject.patch])
    for name in encoder.methods:
        if encoder.methods[name].slow:
            why.append(f"{name} is left out of `all`: name it to wait for it")
            continue
        try:
            encoder.maps(name, blank, text)
        except UsageError as error:  # a tower with too few blocks, a stage without features
            why.append(f"{name} is left out for {encoder.name}: {error}")
        else:
            able.append(name)
    return able, why


def _check_options(encoder: Encoder, variant: Variant) -> None:
    takes = encoder.methods[variant.method].options
    for name in variant.options:
        if name not in takes:
            raise UsageError(
                f"--method {variant.label}: '{variant.method}' has no option '{name}'; "
                f"it takes: {', '.join(takes) or 'none'}"
            )
