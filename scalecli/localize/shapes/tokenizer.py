"""A word-level tokenizer for the shapes CLIP: its whole language is one tuple.

The interface is open_clip's: call it with a text or texts, get ids [P, context].
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from scalecli.localize.shapes.captions import OPENINGS
from scalecli.localize.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES

CONTEXT = 32
"""Ids per text, start and end included; longer texts are cut."""

_PAD, _START, _UNKNOWN = 0, 1, 2
_GLUE = ["a", "an", "and", "on", "background"]
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *_GLUE,
            *" ".join(OPENINGS).split(),
            *SHAPES,
            *COLOURS,
            *TEXTURES,
            *SIZES,
            *BACKGROUNDS,
        ]
    )
)
_IDS = {word: i + 3 for i, word in enumerate(WORDS)}
_END = len(WORDS) + 3
"""The largest id: CLIP reads its text embedding off there (arg-max pooling)."""
VOCABULARY = _END + 1


def tokenize(texts: str | Sequence[str]) -> Tensor:
    """Ids [P, CONTEXT] of texts; words outside the language become one unknown word."""
    texts = [texts] if isinstance(texts, str) else texts
    rows = []
    for text in texts:
        words = [_IDS.get(word, _UNKNOWN) for word in _split(text)][: CONTEXT - 2]
        rows.append([_START, *words, _END] + [_PAD] * (CONTEXT - 2 - len(words)))
    return torch.tensor(rows)


def decode(ids: Tensor) -> str:
    """The words of one row of ids; unknown ones as ``?``."""
    known = {i: word for word, i in _IDS.items()} | {_UNKNOWN: "?"}
    return " ".join(known[i] for i in ids.tolist() if i in known)


def unknown_words(text: str) -> tuple[str, ...]:
    """The words of a text that the shapes CLIP has never seen."""
    return tuple(word for word in _split(text) if word not in _IDS)


def _split(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
