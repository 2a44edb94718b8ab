"""An encoder as the commands see it: text to vectors, images to maps, whatever it is inside.

Four kinds of model stand behind this one door: CLIP ViTs, CLIP ResNets, timm towers of open_clip,
and CNN classifiers that take words (the embedded model, timm models). Each kind has a *subject*,
the network taken apart, and a table of the methods that apply to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from scalecli.localize.methods import Method


class Subject(Protocol):
    """A vision network taken apart, as methods need it."""

    @property
    def patch(self) -> tuple[int, int]:
        """Pixels (height, width) of one position of the grid; image sides are multiples of it."""

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Positions (gh, gw) of an image batch [B, 3, height, width]."""

    def scores(self, image: Tensor, text: Tensor) -> Tensor:
        """Image-level scores [B, P] of texts [P, E], float32: the model's own decision."""

    def shared(self, image: Tensor) -> AbstractContextManager[None]:
        """Within it, methods asked about this very tensor share one pass of the network."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of its blocks or stages, in the order in which an image passes them."""

    def prefixes(self) -> Iterator[Subject]:
        """The network ended after each of :attr:`layers`, sharing all weights.

        Empty where the layers have no common space, as in a CNN.
        """


@dataclass(frozen=True)
class InputSpec:
    """How a checkpoint wants its pixels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    """Short side in pixels that it was trained at."""
    interpolation: str = "bicubic"
    """``bicubic`` or ``bilinear``."""


@dataclass(frozen=True)
class Encoder:
    """A loaded model: made by :func:`scalecli.localize.load.load_encoder`."""

    name: str
    """For tables and legends, e.g. ``ViT-B-16-quickgelu (openai)`` or ``embedded``."""
    about: str
    """One line: what it is and where its weights came from."""
    fingerprint: str
    """Identity of the weights (a hash), part of every cache key."""
    subject: Subject
    methods: Mapping[str, Method]
    """The methods that apply to this kind, in order of preference; the first is the default."""
    input: InputSpec
    encode: Callable[[Sequence[str]], Tensor]
    """Full sentences → vectors [P, E] on the CPU; not necessarily of unit length."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Put around every prompt when the user names none."""
    unit_text: bool = True
    """Whether text vectors are normalised (CLIP) or classifier vectors kept as they are (CNN)."""
    logit_scale: float = 1.0
    """What the model multiplies scores by before a softmax."""
    notes: tuple[str, ...] = ()
    """What a user should know about how it was loaded, a line each."""
    cuts: Callable[[str], bool] = lambda _sentence: False
    """Whether the text model reads only the beginning of a sentence."""
    common: tuple[str, ...] | None = None
    """Words to measure a prompt against, where the model does not know everyday nouns."""
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    def text(self, prompts: Sequence[str], templates: Sequence[str] | None = None) -> Tensor:
        """Text vectors [P, E]: every template filled, normalised, averaged, normalised again."""
        chosen = tuple(templates or self.templates)
        sentences = [t.replace("{}", p) for p in prompts for t in chosen]
        vectors = self.encode(sentences).float()
        if self.unit_text:
            vectors = F.normalize(vectors, dim=-1)
        mean = vectors.reshape(len(prompts), len(chosen), -1).mean(dim=1)
        mean = F.normalize(mean, dim=-1) if self.unit_text else mean
        return mean.to(self.device)

    def maps(self, method: str, image: Tensor, text: Tensor, **options: Any) -> Tensor:
        """Scores [B, P, gh, gw], float32, of images [B, 3, height, width] and texts [P, E].

        Raises:
            UsageError: the method does not apply to this encoder (the message names those that
                do), or it has no such option.
        """
        chosen = self._chosen(method, text, options)
        return chosen(self.subject, image.to(self.device, self.dtype), text, **options)

    def stages(
        self, method: str, image: Tensor, text: Tensor, **options: Any
    ) -> list[tuple[str, Tensor]]:
        """The method read off at every block or stage: (name, maps [B, P, gh, gw]) in order.

        Raises:
            UsageError: as :meth:`maps`, and for a method that cannot be followed through the
                layers (the message names those that can).
        """
        from scalecli.localize.through_layers import can_follow, follow

        chosen = self._chosen(method, text, options)
        if not can_follow(self.subject, chosen):
            able = ", ".join(n for n, m in self.methods.items() if can_follow(self.subject, m))
            raise UsageError(
                f"method '{method}' cannot be followed through the layers of {self.name}; "
                f"these can: {able}"
            )
        return follow(self.subject, chosen, image.to(self.device, self.dtype), text, options)

    def _chosen(self, method: str, text: Tensor, options: dict[str, Any]) -> Method:
        """The method, once its options are checked and what they need of texts is added."""
        chosen = self.method(method)
        unknown = [name for name in options if name not in chosen.options]
        if unknown:
            takes = ", ".join(chosen.options) or "none"
            raise UsageError(f"method '{method}' has no option '{unknown[0]}'; it takes: {takes}")
        surgery = options.get("surgery", chosen.defaults.get("surgery"))
        if surgery == "empty" or (surgery == "auto" and len(text) == 1):
            options.setdefault("empty", self.text([""])[0])
        return chosen

    def method(self, name: str) -> Method:
        """The method of this name.

        Raises:
            UsageError: it does not apply here, and which ones do.
        """
        if name not in self.methods:
            known = ", ".join(self.methods)
            near = did_you_mean(name, self.methods)
            if name == "proxyclip":
                near = "name its second encoder, for example --proxy vit_base_patch8_224.dino"
            # Where no name is near, did_you_mean lists them all itself.
            every = "" if near.startswith("known: ") else f"; all: {known}"
            raise UsageError(f"method '{name}' does not apply to {self.name}; {near}{every}")
        return self.methods[name]

    def shared(self, image: Tensor) -> AbstractContextManager[None]:
        """Within this context methods share one pass of this very image.

        Args:
            image: on the encoder's device, of its dtype; a copy of it would not be known again.
        """
        return self.subject.shared(image)

    def scores(self, image: Tensor, text: Tensor) -> Tensor:
        """Image-level scores [B, P], float32."""
        with torch.no_grad():
            return self.subject.scores(image.to(self.device, self.dtype), text)
