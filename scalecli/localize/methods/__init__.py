"""The methods for CLIP ViTs, in one table. Adding one: a file beside this and a line here.

Each maps (tower, image [B, 3, height, width], text [P, E]) to scores [B, P, gh, gw] in float32,
with one image pass for all prompts; its options are its keyword-only arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scalecli.localize.cam import cam, multiscale_cam
from scalecli.localize.encoder import Subject
from scalecli.localize.gradcam import gradcam_at, gradcam_vit
from scalecli.localize.methods.attention import attention
from scalecli.localize.methods.clearclip import clearclip
from scalecli.localize.methods.clip_surgery import clip_surgery
from scalecli.localize.methods.gem import gem
from scalecli.localize.methods.gradcam_pp import gradcam_pp
from scalecli.localize.methods.hirescam import hirescam
from scalecli.localize.methods.layercam import layercam
from scalecli.localize.methods.legrad import legrad
from scalecli.localize.methods.maskclip import maskclip
from scalecli.localize.methods.naclip import naclip
from scalecli.localize.methods.patch_text import patch_alone, patch_text
from scalecli.localize.methods.pearl import pearl
from scalecli.localize.methods.resclip import resclip
from scalecli.localize.methods.sc_clip import sc_clip
from scalecli.localize.methods.sclip import sclip
from scalecli.localize.methods.scorecam import scorecam
from scalecli.localize.methods.self_self import self_self
from scalecli.localize.methods.surgery import with_surgery


@dataclass(frozen=True)
class Method:
    """One way to a heatmap."""

    run: Callable[..., Tensor]
    """(tower, image, text, **options) → scores [B, P, gh, gw]."""
    about: str
    """One line for help and legends."""
    cosine: bool = True
    """Whether scores are cosines, comparable over images and prompts."""
    comparable: bool = True
    """Whether scores of different prompts compare: as cosines do, and what a position adds to each
    prompt's score. An attention row does not: it sums to one whatever the prompt."""
    slow: bool = False
    """Whether it takes passes by the hundred, and so has to be named: ``all`` leaves it out."""

    def __call__(self, subject: Subject, image: Tensor, text: Tensor, **options: Any) -> Tensor:
        """Scores [B, P, gh, gw]; no graph is kept."""
        with torch.no_grad():
            return self.run(subject, image, text, **options)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options it takes."""
        return tuple(self.defaults)

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        bound = self.run.keywords if isinstance(self.run, partial) else {}
        return {
            p.name: p.default
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and p.name not in bound
        }


_OWN: Mapping[str, bool] = {"cosine": False, "comparable": False}

VIT_METHODS: Mapping[str, Method] = {
    "gem": Method(
        with_surgery(gem), "self-self attention in the last blocks, beside the ordinary stream"
    ),
    "patch-text": Method(with_surgery(patch_text), "cosine of every projected patch with the text"),
    "maskclip": Method(with_surgery(maskclip), "values of the last block, without attention"),
    "clip-surgery": Method(
        with_surgery(clip_surgery, "auto"), "value–value path, common part removed", cosine=False
    ),
    "self-self": Method(with_surgery(self_self), "self-self attention of the last block alone"),
    "sclip": Method(with_surgery(sclip), "q·q and k·k attention in the last block"),
    "clearclip": Method(with_surgery(clearclip), "q·q attention of the last block alone"),
    "naclip": Method(
        with_surgery(naclip), "k·k attention of the last block alone, near patches first"
    ),
    "resclip": Method(resclip, "naclip led by middle blocks and a first segmentation"),
    "sc-clip": Method(with_surgery(sc_clip), "outliers resolved, patches grouped by middle blocks"),
    "pearl": Method(with_surgery(pearl), "last block's keys rotated onto its queries"),
    "legrad": Method(legrad, "gradient of the score by attention", cosine=False),
    "attention-qk": Method(partial(attention, pair="qk"), "anchor's query–key row", **_OWN),
    "attention-vv": Method(partial(attention, pair="vv"), "anchor's value–value row", **_OWN),
    "attention-qq": Method(partial(attention, pair="qq"), "anchor's query–query row", **_OWN),
    "attention-kk": Method(partial(attention, pair="kk"), "anchor's key–key row", **_OWN),
    "gradcam": Method(gradcam_vit, "gradient of the image–text cosine", cosine=False),
}

GRADIENT_METHODS: Mapping[str, Method] = {
    "gradcam": Method(gradcam_at, "gradient of the score", cosine=False),
    "gradcam++": Method(gradcam_pp, "Grad-CAM, growing gradients first", **_OWN),
    "layercam": Method(layercam, "positive gradient at every position", **_OWN),
    "hirescam": Method(hirescam, "gradient times features at every position", cosine=False),
}
"""For every network whose layers can be named; parts of the tables below."""

RESNET_METHODS: Mapping[str, Method] = {
    **{name: VIT_METHODS[name] for name in ("maskclip", "patch-text", "clearclip", "naclip")},
    **{f"attention-{pair}": VIT_METHODS[f"attention-{pair}"] for pair in ("qk", "vv", "qq", "kk")},
    **GRADIENT_METHODS,
}
"""For CLIP ResNets, whose attention pool stands in for the last block."""

TIMM_METHODS: Mapping[str, Method] = {
    "patch-text": Method(patch_alone, "cosine of every position, pooled alone, with the text"),
    **GRADIENT_METHODS,
    "cam": Method(cam, "what every position adds to the score", cosine=False),
}
"""For timm towers of open_clip; ``cam`` where average pooling and linear layers end them."""

CNN_METHODS: Mapping[str, Method] = {
    "multiscale-cam": Method(multiscale_cam, "cam averaged over image sizes", cosine=False),
    "cam": Method(cam, "what every position adds to the class score", cosine=False),
    **GRADIENT_METHODS,
    "scorecam": Method(scorecam, "score of the image seen through each feature", **_OWN, slow=True),
    "patch-text": Method(patch_alone, "class score of every position alone", cosine=False),
}
"""For classifiers: timm's, and the embedded model; what applies depends on how they pool."""
