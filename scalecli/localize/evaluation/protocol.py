"""A protocol: how an image is cut, what is asked, and how maps become labels.

Figures of different papers differ as much by protocol as by method. Each one here is a file in
``configs/eval``, complete in itself, and any key can be changed from the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalecli.core.config import configs_dir, make, option
from scalecli.core.errors import UsageError, did_you_mean

IMAGENET = "imagenet"
"""Names open_clip's 80 ImageNet templates."""
DEFAULT_PROTOCOL = {
    "shapes": "shapes",
    "voc": "voc21",
    "ade20k": "ade150",
    "coco-panoptic": "coco-object",
    "pairs": "pairs",
}
"""The protocol of each kind of dataset unless ``--protocol`` names one; its keys are the kinds."""


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate; see ``configs/eval``.

    Raises:
        ValueError: keys that contradict each other.
    """

    about: str = option("", "One line: where the protocol comes from.")
    classes: tuple[str, ...] = option(
        (), "One text per class in the dataset's order, words apart by commas; none: its own names."
    )
    background: Literal["class", "ignore"] = option(
        "ignore", "What the dataset's background is: a class of its own, or left out."
    )
    background_words: tuple[str, ...] = option((), "Words that mean background.")
    things: bool = option(False, "COCO panoptic: only things are classes, stuff is background.")
    resize: Literal["short", "squash", "model"] = option(
        "model",
        "short: the short side becomes `size`; squash: size×size; model: short side as trained.",
    )
    size: int = option(0, "Side in pixels for resize short and squash.", low=0, high=4096)
    window: int = option(0, "Side of a sliding window; 0 sees the image whole.", low=0, high=4096)
    stride: int = option(0, "Pixels between windows.", low=0, high=4096)
    templates: tuple[str, ...] = option(
        (), "Texts around every word; `imagenet` is the 80 of CLIP; none: the model's own."
    )
    logit_scale: float | None = option(
        None, "What scores are multiplied by before the softmax; none: the model's own.", above=0
    )
    threshold: float = option(
        0.0, "Least softmax probability of a class; below it is background.", low=0, high=1
    )
    least_area: float = option(
        0.0, "Classes that win less than this share of the image become background.", low=0, high=1
    )
    normalise: Literal["auto", "none", "minmax", "weighted"] = option(
        "auto",
        "Per image and prompt, before classes compete: minmax; weighted: min–max times the image's "
        "own probability of the prompt; auto: none for comparable scores, otherwise weighted.",
    )

    refine: Literal["none", "pamr"] = option(
        "none", "pamr: maps follow the image's edges before classes compete (slow)."
    )

    def __post_init__(self) -> None:
        if self.resize != "model" and not self.size:
            raise ValueError(f"size: resize {self.resize} needs a side in pixels, such as 336")
        if self.window and not 0 < self.stride <= self.window:
            raise ValueError(f"stride: must be 1…{self.window}, or windows leave gaps")
        if self.window and (self.resize == "model" or self.size < self.window):
            raise ValueError(f"size: sliding windows of {self.window} need resize short, size ≥ it")
        if self.background == "ignore" and (self.threshold or self.background_words):
            raise ValueError("background: threshold and background_words need background: class")
        if self.background == "ignore" and self.least_area:
            raise ValueError("background: least_area needs background: class")

    def sentences(self) -> tuple[str, ...] | None:
        """The templates as texts with {}; None leaves them to the model.

        Raises:
            UsageError: one has no {}.
        """
        if self.templates == (IMAGENET,):
            from open_clip import OPENAI_IMAGENET_TEMPLATES

            return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
        for template in self.templates:
            if "{}" not in template:
                raise UsageError(f"template '{template}': put {{}} where the word goes")
        return self.templates or None


def names() -> list[str]:
    """The shipped protocols."""
    return sorted(path.stem for path in (configs_dir() / "eval").glob("*.yaml"))


def load_protocol(name: str, changes: Sequence[str] = ()) -> Protocol:
    """A shipped protocol by name, or one from a YAML file, with ``key=value`` changes.

    Raises:
        UsageError: no such protocol, an unknown key, or a value outside its range.
    """
    path = configs_dir() / "eval" / f"{name}.yaml"
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name)
    if not path.is_file():
        raise UsageError(f"--protocol {name}: no such protocol; {did_you_mean(name, names())}")
    try:
        return make(Protocol, file=path, sets=changes)
    except UsageError as error:
        # `make` speaks of --set, which this command has for its own config.
        raise UsageError(str(error).replace("--set ", "--change ")) from error


@dataclass(frozen=True)
class Vocabulary:
    """What is asked, and which class each answer means."""

    classes: tuple[str, ...]
    """K names, for tables; index 0 is background where there is one."""
    words: tuple[str, ...]
    """P prompts, grouped by class in ascending order."""
    owner: tuple[int, ...]
    """The class of every prompt."""
    background: bool
    """Whether class 0 is the background."""

    def groups(self) -> list[tuple[int, slice]]:
        """(class, its prompts) for every class that owns a word."""
        found: list[tuple[int, slice]] = []
        for position, owner in enumerate(self.owner):
            if found and found[-1][0] == owner:
                found[-1] = (owner, slice(found[-1][1].start, position + 1))
            else:
                found.append((owner, slice(position, position + 1)))
        return found


def vocabulary(protocol: Protocol, classes: Sequence[str], *, background: bool) -> Vocabulary:
    """The prompts of a protocol over a dataset.

    Args:
        protocol: words, and what becomes of the background.
        classes: the dataset's own names, without the background.
        background: whether the dataset has one.

    Raises:
        UsageError: the protocol names another number of classes, or wants a background that the
            dataset does not have, or a class has no word.
    """
    if protocol.classes and len(protocol.classes) != len(classes):
        raise UsageError(
            f"the protocol names {len(protocol.classes)} classes, the dataset has {len(classes)}; "
            "choose the protocol made for it"
        )
    if protocol.background == "class" and not background:
        raise UsageError(
            "the protocol has a background class, the dataset labels every pixel or ignores it; "
            "use --change background=ignore"
        )
    as_class = protocol.background == "class"
    texts = [_words(text) for text in (protocol.classes or classes)]
    for name, own in zip(classes, texts, strict=True):
        if not own:
            raise UsageError(f"class '{name}' has no word; give it one in the class list")
    if as_class:
        texts.insert(0, list(protocol.background_words))
    return Vocabulary(
        classes=(("background", *classes) if as_class else tuple(classes)),
        words=tuple(word for own in texts for word in own),
        owner=tuple(i for i, own in enumerate(texts) for _ in own),
        background=as_class,
    )


def _words(text: str) -> list[str]:
    return [part for raw in text.split(",") if (part := " ".join(raw.split()))]
