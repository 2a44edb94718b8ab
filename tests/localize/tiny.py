"""A small random CLIP as a whole encoder: every part of the command, in milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from scalecli.localize.encoder import Encoder, InputSpec
from scalecli.localize.methods import VIT_METHODS
from scalecli.localize.vit import Tower
from tests.localize.conftest import JOINT, SIDE, small_clip

READS = 120
"""Characters of a sentence that the text side reads."""


def words(sentences: Sequence[str]) -> Tensor:
    """A vector that depends on a sentence's beginning only."""
    rows = []
    for sentence in sentences:
        digest = hashlib.sha256(sentence[:READS].encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        rows.append(torch.randn(JOINT, generator=generator))
    return torch.stack(rows)


def tiny_encoder() -> Encoder:
    """The small CLIP of the method tests, with texts hashed to vectors."""
    return Encoder(
        name="tiny",
        about="tiny: random weights",
        fingerprint="0" * 16,
        subject=Tower(small_clip().visual),
        methods=VIT_METHODS,
        input=InputSpec((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), SIDE),
        encode=words,
        cuts=lambda sentence: len(sentence) > READS,
    )
