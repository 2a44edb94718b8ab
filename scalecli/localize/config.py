"""What `scalecli localize` is asked for; see :class:`LocalizeConfig`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalecli.core.config import option, to_dict
from scalecli.core.engine import EngineConfig
from scalecli.localize.model_config import ModelConfig

WHAT, HOW, PICTURES, JOB = "What and where", "Method", "Pictures and files", "Folders"
CMAPS = ("viridis", "inferno", "magma", "plasma", "cividis", "turbo", "gray")
"""The first five are perceptually uniform."""
METHOD_FLAGS = (
    "blocks", "block", "layers", "layer", "iterations", "temperature", "mask_anchor", "log",
)  # fmt: skip
"""Fields that are handed to the methods that have an option of this name."""


@dataclass(frozen=True)
class LocalizeConfig(ModelConfig, EngineConfig):
    """Where in these pictures is what these prompts say?"""

    words: tuple[str, ...] = option(
        (),
        "Pictures (files, folders, globs that exist), then prompts.",
        argument=True,
        metavar="IMAGE... PROMPT...",
    )
    images: tuple[str, ...] = option(
        (), "A picture, folder or glob; can be repeated.", repeat=True, metavar="PATH", panel=WHAT
    )
    prompts: tuple[str, ...] = option(
        (), "What to look for; can be repeated.", flag="--prompt", repeat=True, metavar="TEXT",
        panel=WHAT,
    )  # fmt: skip
    prompts_file: Path | None = option(None, "Prompts, one a line.", panel=WHAT)
    negative: tuple[str, ...] = option(
        (),
        "What it is not, such as 'sky': its map is subtracted; can be repeated (the highest of "
        "them counts).",
        repeat=True,
        metavar="TEXT",
        panel=WHAT,
    )
    template: tuple[str, ...] = option(
        (), "Sentence around prompts, with {}; several are averaged.", repeat=True,
        metavar="TEXT", panel=WHAT,
    )  # fmt: skip
    templates: Literal["default", "imagenet", "none"] = option(
        "default", "The model's own template, the 80 of CLIP's authors, or none.", panel=WHAT
    )
    mask_file: Path | None = option(
        None, "Mask of the object (not black: inside): reports whether maps agree.", panel=WHAT
    )
    method: tuple[str, ...] = option(
        (),
        "Names by commas, or all (but the slow scorecam); the model's best by default.",
        panel=HOW,
    )
    size: str = option(
        "", "Input: N (short side, aspect kept) or HxW; the model's own by default.",
        metavar="N|HxW", panel=HOW,
    )  # fmt: skip
    blocks: int | None = option(
        None, "How many last blocks (gem, clip-surgery).", low=1, high=1000, panel=HOW
    )
    block: int | None = option(
        None, "One block, negative from the end (gradcam on ViTs).", low=-1000, high=1000, panel=HOW
    )
    layers: str | None = option(None, "Layers, for methods with such an option.", panel=HOW)
    layer: str | None = option(None, "A CNN's layer by its name (gradcam).", panel=HOW)
    iterations: int | None = option(
        None, "Rounds of self-self attention (gem, self-self).", low=0, high=100, panel=HOW
    )
    temperature: float | None = option(
        None, "Inverse temperature in place of the adaptive one (gem, self-self).", above=0,
        panel=HOW,
    )  # fmt: skip
    mask_anchor: bool = option(False, "Hide the anchor patch (attention).", panel=HOW)
    log: bool = option(False, "Logarithm of the attention (attention).", panel=HOW)
    method_options: tuple[str, ...] = option(
        (),
        "Any option of a method: NAME=VALUE; `scalecli localize methods` lists them.",
        flag="--option",
        repeat=True,
        metavar="NAME=VALUE",
        panel=HOW,
    )
    refine: Literal["none", "pamr", "laplacian"] = option(
        "none",
        "Maps brought to the input's size along its edges, after the method (also in --raw).",
        panel=HOW,
    )
    cmap: str = option("inferno", "Colours.", choices=lambda: CMAPS, panel=PICTURES)
    alpha: float = option(0.6, "Opacity of the map.", low=0, high=1, panel=PICTURES)
    max_side: int = option(
        1024, "Long side of pictures drawn, pixels.", low=64, high=8192, panel=PICTURES
    )
    absolute: bool = option(
        False,
        "One range for all prompts, up to what any common word reaches, in place of each map's "
        "own minimum to maximum.",
        panel=PICTURES,
    )
    compare: bool = option(False, "contact.png: pictures, then method × prompt.", panel=PICTURES)
    through_layers: bool = option(
        False, "A filmstrip: the map at every block or stage.", panel=PICTURES
    )
    heatmap: bool = option(False, "The bare map as PNG.", panel=PICTURES)
    mask: bool = option(False, "The region above the threshold as PNG.", panel=PICTURES)
    boxes: bool = option(False, "Boxes around its parts, drawn and in the rows.", panel=PICTURES)
    segment: bool = option(False, "All prompts at once, coloured, with legend.", panel=PICTURES)
    threshold: str = option(
        "0.5", "Where an object begins on a map scaled to 0…1: a number, or otsu.",
        metavar="NUMBER|otsu", panel=PICTURES,
    )  # fmt: skip
    background: float = option(
        0.5, "Segment: below this on its own map a pixel is nothing.", low=0, high=1,
        panel=PICTURES,
    )  # fmt: skip
    raw: bool = option(False, "Scores before any up-sampling and scaling as .npz.", panel=PICTURES)
    overlay: bool = option(True, "The map over the picture as PNG.", panel=PICTURES)
    threads: int = option(
        0, "Threads that decode and write; 0: half of the cores.", low=0, high=256, panel=JOB
    )
    batch: int = option(1, "Pictures of one size that pass together.", low=1, high=1024, panel=JOB)

    def __post_init__(self) -> None:
        from scalecli.localize.images import parse_size

        super().__post_init__()
        if self.size:
            parse_size(self.size)
        self.cut()
        for text in self.method_options:
            if not re.fullmatch(r"[a-z_-]+=.+", text):
                raise ValueError(f"--option {text}: write name=value, for example iterations=2")

    def cut(self) -> float | None:
        """The threshold as a number; None for Otsu's.

        Raises:
            ValueError: it is neither.
        """
        if self.threshold == "otsu":
            return None
        try:
            value = float(self.threshold)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise ValueError(f"--threshold {self.threshold}: a number from 0 to 1, or otsu")
        return value

    def options_given(self) -> Mapping[str, object]:
        """Options of methods that the user named: from flags, then from ``--option``."""
        flags = {n: v for n in METHOD_FLAGS if (v := getattr(self, n)) not in (None, False)}
        pairs = (text.partition("=") for text in self.method_options)
        return {**flags, **{name.replace("-", "_"): value for name, _, value in pairs}}

    def identity(self) -> dict[str, object]:
        """All that a picture's results depend on, the picture and the weights apart.

        Not how fast it is computed, nor which other pictures are asked for, nor where weights
        come from (their fingerprint says that).
        """
        apart = (
            "words", "images", "prompts", "prompts_file", "model", "pretrained", "device",
            "offline", "threads", "batch", "engine", "address", "workers",
        )  # fmt: skip
        return {name: value for name, value in to_dict(self).items() if name not in apart}
