"""An encoder with the texts of one request: pictures in, numbers out; nothing is drawn here.

Shape legend: P prompts, N negative texts, K common words, gh×gw the encoder's grid.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scalecli.core.config import parse
from scalecli.core.errors import ScalecliError, UsageError, did_you_mean
from scalecli.core.results import cell_key
from scalecli.localize import absent, images, regions, render
from scalecli.localize.methods.refinements import REFINEMENTS
from scalecli.localize.prompts import clean, cut_off, templates
from scalecli.localize.through_layers import can_follow

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from scalecli.localize.config import LocalizeConfig
    from scalecli.localize.encoder import Encoder
    from scalecli.localize.methods import Method

VERSION = 1
"""Part of every key: raise it when the meaning of a row changes."""
ANCHORED = "attention-"
"""Methods of this beginning start from the patch that fits the prompt best."""


@dataclass(frozen=True)
class Item:
    """One picture of a job."""

    path: str
    folder: str
    """Where its files go, relative to the run's folder; "" for the run's folder itself."""

    @property
    def name(self) -> str:
        """The path as it can be printed and written."""
        return os.fsencode(self.path).decode(errors="backslashreplace")


@dataclass(frozen=True)
class Decoded:
    """A picture ready to be looked at."""

    item: Item
    key: str
    canvas: Image.Image
    """RGB at the size it is drawn."""
    size: tuple[int, int]
    """Width and height of the upright original."""
    tensor: Tensor
    """[3, height, width]."""


@dataclass(frozen=True)
class Skipped:
    """A picture whose rows are on disk already."""

    item: Item
    key: str


@dataclass(frozen=True)
class Broken:
    """A file that is no usable picture."""

    item: Item
    error: str


@dataclass(frozen=True)
class Found:
    """What one method says of one picture."""

    raw: regions.Maps
    """[P + N, gh, gw] in the method's unit."""
    seconds: float
    """For all prompts together."""
    reach: tuple[float, float] | None = None
    """Mean and highest value of common words' maps (``--absolute``)."""
    stages: tuple[tuple[str, regions.Maps], ...] = ()
    """(name, maps [P, gh, gw]) through the layers."""


@dataclass(frozen=True)
class Seen:
    """A picture looked at."""

    picture: Decoded
    scores: Sequence[float]
    """Image-level, P."""
    contrasts: Sequence[float]
    """P."""
    found: Mapping[str, Found]
    anchors: regions.Maps | None = None
    """Patch–text cosines [P, gh, gw] whose highest patch is the anchor."""


class Localizer:
    """A loaded encoder and the vectors of all texts, computed once.

    Attributes:
        finished: called with a method's name after each, for who waits at a single picture.

    Args:
        config: what is asked for.
        encoder: the loaded model.
        prompts: distinct texts.

    Raises:
        UsageError: a method that does not apply, an option that no chosen method has, a template
            without {}, an empty negative.
    """

    def __init__(self, config: LocalizeConfig, encoder: Encoder, prompts: Sequence[str]) -> None:
        self.finished: Callable[[str], None] = lambda _name: None
        self.config = config
        self.encoder = encoder
        self.prompts = tuple(prompts)
        self.size = (
            images.parse_size(config.size) if config.size else images.Size(short=encoder.input.size)
        )
        self.methods = chosen_methods(encoder, config.method)
        self.options = method_options(encoder, self.methods, config.options_given())
        self.followed = followed(encoder, config, self.methods) if config.through_layers else ()
        negative, _ = clean(config.negative)
        around = templates(config.templates, config.template)
        texts = [*self.prompts, *negative]
        self.text = encoder.text(texts, around)
        common = encoder.common or absent.WORDS
        self.bank = encoder.text(common)
        self.range_text = encoder.text(common[:: absent.EVERY]) if config.absolute else None
        self.notes = tuple(
            f"note: only the beginning of '{prompt[:24]}…' ({len(prompt):,} characters) is read"
            for prompt in cut_off(encoder, texts, around or encoder.templates)
        )
        self.identity = {
            "version": VERSION,
            "config": config.identity(),
            "prompts": self.prompts,
            "weights": encoder.fingerprint,
        }

    def key(self, item: Item, content: bytes) -> str:
        """Identity of a picture's results: its content, its name, and all that was asked."""
        digest = hashlib.sha256(content).hexdigest()
        return cell_key("localize", {**self.identity, "image": item.name, "sha256": digest})

    def read(self, item: Item, done: Container[str] = ()) -> Decoded | Skipped | Broken:
        """Read and decode a picture, unless its key is in ``done``."""
        try:
            content = images.read(item.path)
            key = self.key(item, content)
            if key in done:
                return Skipped(item, key)
            photo = images.decode(content, enough=self._enough())
        except images.ImageError as error:
            return Broken(item, str(error))
        height, width = self.size.fit(*photo.size, self.encoder.subject.patch)
        tensor = images.to_tensor(photo.image, (height, width), self.encoder.input)
        canvas = render.canvas(photo.image, self.config.max_side)
        return Decoded(item, key, canvas, photo.size, tensor)

    def _enough(self) -> images.Enough:
        """Pixels that decoding must keep: for the drawing, and twice those of the input."""
        short = self.size.short or max(self.size.exact or (0, 0))
        return images.Enough(long=self.config.max_side, short=2 * short)

    def look(self, pictures: Sequence[Decoded]) -> list[Seen]:
        """Every method on pictures of one input size, in one pass each.

        Raises:
            ScalecliError: out of memory, or maps that are not numbers.
        """
        encoder, count = self.encoder, len(self.prompts)
        batch = torch.stack([picture.tensor for picture in pictures])
        batch = batch.to(encoder.device, encoder.dtype)
        try:
            with encoder.shared(batch):
                # The methods first: so the seconds of a single one are those of its whole pass.
                found = {name: self._ask(name, batch) for name in self.methods}
                texts = torch.cat([self.text[:count], self.bank])
                scores = encoder.scores(batch, texts).float().cpu()
                anchors = None
                if any(name.startswith(ANCHORED) for name in self.methods):
                    anchors = _array(encoder.maps("patch-text", batch, self.text[:count]))
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise ScalecliError(_out_of_memory(batch)) from error
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise ScalecliError(_out_of_memory(batch)) from error
        contrasts = absent.contrast(scores[:, :count], scores[:, count:])
        return [
            Seen(
                picture,
                scores[i, :count].tolist(),
                contrasts[i].tolist(),
                {name: answers[i] for name, answers in found.items()},
                None if anchors is None else anchors[i],
            )
            for i, picture in enumerate(pictures)
        ]

    def _ask(self, name: str, batch: Tensor) -> list[Found]:
        """One method on a batch, an answer per picture."""
        options = self.options[name]
        start = time.perf_counter()
        maps = self.encoder.maps(name, batch, self.text, **options)
        if self.config.refine != "none":
            maps = REFINEMENTS[self.config.refine](batch, maps, self.text)
        raw = _array(maps)
        seconds = (time.perf_counter() - start) / len(batch)
        if not np.isfinite(raw).all():
            raise ScalecliError(
                f"method '{name}' gave values that are no numbers; try --precision fp32"
            )
        reach: list[tuple[float, float] | None] = [None] * len(batch)
        if self.range_text is not None:
            common = _array(self.encoder.maps(name, batch, self.range_text, **options))
            reach = [(float(maps.mean()), float(maps.max())) for maps in common]
        stages: list[tuple[str, regions.Maps]] = []
        if name in self.followed:
            text = self.text[: len(self.prompts)]
            stages = [
                (stage, _array(maps))
                for stage, maps in self.encoder.stages(name, batch, text, **options)
            ]
        self.finished(name)
        return [
            Found(raw[i], seconds, reach[i], tuple((stage, maps[i]) for stage, maps in stages))
            for i in range(len(batch))
        ]


def chosen_methods(encoder: Encoder, names: Sequence[str]) -> tuple[str, ...]:
    """Methods by name, ``all`` for all quick ones of the encoder's; its first by default.

    Raises:
        UsageError: one does not apply to this encoder.
    """
    if not names:
        return (next(iter(encoder.methods)),)
    named = [name for name in names if name != "all"]
    for name in named:
        encoder.method(name)
    every = [n for n, m in encoder.methods.items() if not m.slow] if "all" in names else []
    return tuple(dict.fromkeys([*every, *named]))


def followed(encoder: Encoder, config: LocalizeConfig, methods: Sequence[str]) -> tuple[str, ...]:
    """Those methods that can be followed through the layers.

    Raises:
        UsageError: one that was asked for by name, or all, cannot; which can.
    """
    able = [n for n, m in encoder.methods.items() if can_follow(encoder.subject, m)]
    unable = [name for name in methods if name not in able]
    if unable and ("all" not in config.method or len(unable) == len(methods)):
        raise UsageError(
            f"--through-layers: {unable[0]} cannot be followed through {encoder.name}; "
            f"these can: {', '.join(able) or 'none'}"
        )
    return tuple(name for name in methods if name in able)


def method_options(
    encoder: Encoder, methods: Sequence[str], given: Mapping[str, object]
) -> dict[str, dict[str, Any]]:
    """For each method those of the given options that it has, parsed as it declares them.

    Raises:
        UsageError: an option that none of them has, or a value of the wrong kind.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for option, value in given.items():
        takers = [name for name in methods if option in option_kinds(encoder.method(name))]
        if not takers:
            known = sorted({o for name in methods for o in option_kinds(encoder.method(name))})
            hint = did_you_mean(option, known) if known else "which take none"
            raise UsageError(f"'{option}' is no option of {', '.join(methods)}; {hint}")
        for name in takers:
            kind = option_kinds(encoder.method(name))[option]
            found[name][option] = parse(kind, value, f"--option {option}")
    return found


def option_kinds(method: Method) -> dict[str, Any]:
    """The options of a method that a user can write down, with their types."""
    run = method.run.func if isinstance(method.run, functools.partial) else method.run
    hints = typing.get_type_hints(run)
    return {name: hints[name] for name in method.options if not _is_tensor(hints[name])}


def _is_tensor(kind: Any) -> bool:
    return kind is torch.Tensor or torch.Tensor in typing.get_args(kind)


def _array(maps: Tensor) -> Any:
    return maps.float().cpu().numpy()


def _out_of_memory(batch: Tensor) -> str:
    count, _, height, width = batch.shape
    smaller = "a smaller --size" if count == 1 else "a smaller --batch or --size"
    return f"out of memory at {height}×{width} pixels, {count} at a time; try {smaller}"
