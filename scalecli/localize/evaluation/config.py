"""What `scalecli localize-eval` is asked for; see :class:`EvalConfig`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from scalecli.core.config import option
from scalecli.core.engine import EngineConfig
from scalecli.core.errors import UsageError
from scalecli.localize.evaluation.protocol import DEFAULT_PROTOCOL
from scalecli.localize.evaluation.protocol import names as protocol_names
from scalecli.localize.model_config import Device, ModelConfig, Precision

WHAT, HOW = "What is evaluated", "Scoring"
ALL = "all"


@dataclass(frozen=True)
class EvalConfig(EngineConfig):
    """Which methods of which models find what in a dataset, and how well."""

    dataset: str = option(
        "shapes",
        "shapes (generated), or KIND:FOLDER with KIND one of voc, ade20k, coco-panoptic, pairs.",
        metavar="KIND:FOLDER",
        panel=WHAT,
    )
    model: tuple[str, ...] = option(
        ("shapes",),
        "Models as in `scalecli localize --model`, each with @TAG for its pretrained weights.",
        metavar="LIST",
        panel=WHAT,
    )
    method: tuple[str, ...] = option(
        (ALL,),
        "Methods, or all; options after colons: gem,gem:iterations=3,naclip.",
        metavar="LIST",
        panel=WHAT,
    )
    protocol: str | None = option(
        None,
        f"One of {', '.join(protocol_names())}, or a YAML file; by default the dataset's own.",
        metavar="NAME",
        panel=WHAT,
    )
    change: tuple[str, ...] = option(
        (), "Change a key of the protocol: threshold=0.2; can be repeated.",
        repeat=True, metavar="KEY=VALUE", panel=WHAT,
    )  # fmt: skip
    limit: int | None = option(
        None, "At most this many images (generated scenes: 200).", low=1, panel=WHAT
    )
    split: str | None = option(
        None, "List or folder of images; by default the validation one.", metavar="NAME", panel=WHAT
    )
    points: int = option(
        20, "Points drawn inside and outside every present class, for p-mIoU.",
        low=1, high=100_000, panel=HOW,
    )  # fmt: skip
    deletion: int = option(
        0, "Steps of the deletion and insertion curves; 0 leaves them out (they are slow).",
        low=0, high=1000, panel=HOW,
    )  # fmt: skip
    baseline: str | None = option(
        None,
        "The method that others are compared with, image by image; by default patch-text, or cam.",
        metavar="NAME",
        panel=HOW,
    )
    examples: int = option(
        3, "Best and worst images on the contact sheet; 0 for none.", low=0, high=20, panel=HOW
    )
    resamples: int = option(
        2000, "Bootstrap samples of the images behind every interval.", low=100, high=100_000,
        panel=HOW,
    )  # fmt: skip
    seed: int = option(0, "Seed of scenes, points and the bootstrap.", low=0, panel=HOW)
    batch: int = option(8, "Windows computed at once.", low=1, high=1024, panel=HOW)
    device: Device = option("auto", "Where to compute; auto prefers cuda, then mps.", panel="Model")
    precision: Precision = option("fp32", "Arithmetic of the image tower.", panel="Model")
    offline: bool = option(False, "Touch no network.", panel="Model")
    proxy: str = option(
        "", "timm ViT that lends its affinity to --method proxyclip.", metavar="NAME", panel="Model"
    )
    proxy_pretrained: str = option(
        "auto", "Weights of --proxy: auto, a tag, a file or none.", metavar="TAG", panel="Model"
    )

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        for flag, values in (("--model", self.model), ("--method", self.method)):
            if len(set(values)) < len(values):
                raise ValueError(f"{flag} {','.join(values)}: one of them is there twice")

    def baseline_of(self, labels: Collection[str]) -> str | None:
        """The baseline among the methods of one model."""
        wanted = ("patch-text", "cam") if self.baseline is None else (self.baseline,)
        return next((label for label in wanted if label in labels), None)

    @property
    def protocol_name(self) -> str:
        """The protocol asked for, or the dataset's own."""
        kind = self.dataset.partition(":")[0]
        return self.protocol or DEFAULT_PROTOCOL.get(kind, "pairs")

    def models(self) -> list[ModelConfig]:
        """What to load, in order."""
        found = []
        for text in self.model:
            name, _, tag = text.partition("@")
            model = ModelConfig(
                model=name,
                pretrained=tag or "auto",
                proxy=self.proxy,
                proxy_pretrained=self.proxy_pretrained,
                device=self.device,
                precision=self.precision,
                offline=self.offline,
            )
            found.append(model)
        return found


@dataclass(frozen=True)
class Variant:
    """A method with options, as named on the command line."""

    label: str
    """``gem:iterations=3``."""
    method: str
    options: dict[str, Any]


def parse_variant(label: str) -> Variant:
    """``gem:iterations=3:blocks=4`` as a method and its options, values read as YAML.

    Raises:
        UsageError: an option without a value.
    """
    import yaml

    method, *texts = label.split(":")
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"--method {label}: write NAME:OPTION=VALUE, as gem:iterations=3")
        try:
            options[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--method {label}: '{value}' is not a value") from error
    return Variant(label, method, options)
