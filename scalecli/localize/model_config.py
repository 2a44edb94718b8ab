"""Which encoder, with which weights, on which device: what every localize command asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalecli.core.config import option

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["fp32", "bf16", "fp16"]

PANEL = "Model"


@dataclass(frozen=True)
class ModelConfig:
    """What :func:`scalecli.localize.load.load_encoder` loads."""

    model: str = option(
        "auto",
        "open_clip name (ViT-B-16), hf-hub:ORG/NAME, local-dir:FOLDER, timm:NAME (a classifier), "
        "embedded, shapes, or auto: CLIP ViT-B/16 if at hand, otherwise embedded.",
        metavar="MODEL",
        panel=PANEL,
    )
    pretrained: str = option(
        "auto",
        "open_clip tag (openai), a checkpoint file, the folder of a train-shapes, or none for "
        "random weights; auto takes openai's where there are such, otherwise the first tag.",
        metavar="TAG",
        panel=PANEL,
    )
    proxy: str = option(
        "",
        "timm ViT that lends its affinity to --method proxyclip (vit_base_patch8_224.dino).",
        metavar="NAME",
        panel=PANEL,
    )
    proxy_pretrained: str = option(
        "auto",
        "Weights of --proxy: auto, a tag, a checkpoint file, or none for random ones.",
        metavar="TAG",
        panel=PANEL,
    )
    device: Device = option("auto", "Where to compute; auto prefers cuda, then mps.", panel=PANEL)
    precision: Precision = option(
        "fp32", "Arithmetic of the image tower; texts are always encoded in fp32.", panel=PANEL
    )
    offline: bool = option(False, "Touch no network: cached and local weights only.", panel=PANEL)
