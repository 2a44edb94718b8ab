"""Prompts as given, cleaned: words, flags and files in, distinct texts in their order out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalecli.core.errors import UsageError
from scalecli.localize.images import expand, looks_like_image

if TYPE_CHECKING:
    from scalecli.localize.encoder import Encoder


@dataclass(frozen=True)
class Request:
    """What to look for, and where."""

    images: tuple[str, ...]
    """Paths of pictures, distinct, in their order."""
    prompts: tuple[str, ...]
    """Distinct texts, in their order."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


def gather(
    words: Sequence[str],
    *,
    images: Sequence[str] = (),
    prompts: Sequence[str] = (),
    prompts_file: Path | None = None,
) -> Request:
    """Sort bare words into pictures and prompts, and add what was said explicitly.

    A word that names a file, a folder or a glob with matches is pictures; any other is a prompt,
    unless it ends like a picture's name.

    Raises:
        UsageError: a picture that does not exist, an empty prompt, or none of either.
    """
    paths: list[str] = []
    texts: list[str] = []
    notes: list[str] = []
    for word in words:
        if _is_path(word) or looks_like_image(word):
            paths += expand(word)
            # The first word was meant as pictures; a later one perhaps as a prompt.
            if word != words[0] and os.path.isdir(word) and not set(word) & set("/\\."):
                notes.append(f"'{word}' is a folder here; for the prompt: --prompt {word}")
        else:
            texts.append(word)
    for path in images:
        paths += expand(path)
    texts += prompts
    if prompts_file is not None:
        texts += read_prompts(prompts_file)
    distinct, again = clean(texts)
    notes += [f"prompt '{shorten(p)}' was given twice; it is done once" for p in again]
    if not paths:
        hint = f"'{shorten(distinct[0])}' is no file here" if distinct else "name one"
        raise UsageError(
            f"no image: {hint}; write: scalecli localize IMAGE... PROMPT... "
            "(an image is a file, a folder or a glob)"
        )
    if not distinct:
        raise UsageError('no prompt: write what to look for, for example "dog", or --prompt dog')
    return Request(tuple(dict.fromkeys(paths)), distinct, tuple(notes))


def clean(texts: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Distinct texts with single spaces, and those that came again.

    Raises:
        UsageError: one is empty.
    """
    seen: dict[str, int] = {}
    for text in texts:
        # Lone surrogates (bytes that are not UTF-8) would break every file written later.
        plain = " ".join(text.encode(errors="replace").decode().split())
        if not plain:
            raise UsageError("a prompt is empty; write what to look for")
        seen[plain] = seen.get(plain, 0) + 1
    return tuple(seen), [text for text, times in seen.items() if times > 1]


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines and lines that begin with # are left out.

    Raises:
        UsageError: unreadable, not UTF-8, or without a prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"--prompts-file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--prompts-file {path}: not UTF-8 text") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise UsageError(f"--prompts-file {path}: no prompt in it; write one a line")
    return found


def templates(name: str, own: Sequence[str]) -> tuple[str, ...] | None:
    """The sentences put around a prompt; None leaves the encoder its own.

    Args:
        name: ``default``, ``imagenet`` (the 80 of CLIP's authors) or ``none``.
        own: the user's; they win.

    Raises:
        UsageError: one has no {} in it.
    """
    for template in own:
        if "{}" not in template:
            raise UsageError(f'--template "{template}": put {{}} where the prompt goes')
    if own:
        return tuple(own)
    if name == "imagenet":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    return ("{}",) if name == "none" else None


def cut_off(encoder: Encoder, prompts: Sequence[str], around: Sequence[str]) -> list[str]:
    """Those prompts whose end the text encoder does not read, whichever template is around."""
    return [
        prompt
        for prompt in prompts
        if any(encoder.cuts(template.replace("{}", prompt)) for template in around)
    ]


def shorten(text: str, limit: int = 32) -> str:
    """A text for a table or a line."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _is_path(word: str) -> bool:
    import glob

    try:
        if os.path.exists(word):
            return True
        return glob.has_magic(word) and any(
            os.path.isfile(p) for p in glob.iglob(word, recursive=True)
        )
    except (OSError, ValueError):  # a text too long for a name, or with a null in it
        return False
