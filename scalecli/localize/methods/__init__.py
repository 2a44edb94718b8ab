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

from scalecli.localize.gradcam import gradcam_vit
from scalecli.localize.methods.attention import attention
from scalecli.localize.methods.clip_surgery import clip_surgery
from scalecli.localize.methods.gem import gem
from scalecli.localize.methods.maskclip import maskclip
from scalecli.localize.methods.patch_text import patch_text
from scalecli.localize.methods.self_self import self_self
from scalecli.localize.vit import Tower


@dataclass(frozen=True)
class Method:
    """One way to a heatmap."""

    run: Callable[..., Tensor]
    """(tower, image, text, **options) → scores [B, P, gh, gw]."""
    about: str
    """One line for help and legends."""
    cosine: bool = True
    """Whether scores are cosines, comparable over images and prompts."""

    def __call__(self, tower: Tower, image: Tensor, text: Tensor, **options: Any) -> Tensor:
        """Scores [B, P, gh, gw]; no graph is kept."""
        with torch.no_grad():
            return self.run(tower, image, text, **options)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options it takes."""
        parameters = inspect.signature(self.run).parameters.values()
        bound = self.run.keywords if isinstance(self.run, partial) else {}
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in bound)


METHODS: Mapping[str, Method] = {
    "gem": Method(gem, "self-self attention in the last blocks, beside the ordinary stream"),
    "patch-text": Method(patch_text, "cosine of every projected patch with the text"),
    "maskclip": Method(maskclip, "values of the last block, without attention"),
    "clip-surgery": Method(clip_surgery, "value–value path, common part removed", cosine=False),
    "self-self": Method(self_self, "self-self attention of the last block alone"),
    "attention-qk": Method(partial(attention, pair="qk"), "anchor's query–key row", cosine=False),
    "attention-vv": Method(partial(attention, pair="vv"), "anchor's value–value row", cosine=False),
    "attention-qq": Method(partial(attention, pair="qq"), "anchor's query–query row", cosine=False),
    "attention-kk": Method(partial(attention, pair="kk"), "anchor's key–key row", cosine=False),
    "gradcam": Method(gradcam_vit, "gradient of the image–text cosine", cosine=False),
}
