"""Feature surgery: take away from every prompt's map what all prompts share.

Li, Wang, Duan, Li, "CLIP Surgery for Better Explainability with Enhancement in Open-Vocabulary
Tasks" (2023). Features are multiplied with each text channel by channel, weighed by how well the
text fits the whole image, and the mean over texts is subtracted; with a single text, what is
subtracted is the similarity with the empty class name ("a photo of a ."). Both are linear in the
features, so maps of cosines are all they need, whichever method made them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import torch
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.encoder import Subject

Surgery = Literal["none", "prompts", "empty", "auto"]
"""``prompts``: less what they have in common; ``empty``: less the empty class name; ``auto``: the
authors' choice, ``prompts`` for several, ``empty`` for one (if its embedding is known)."""


def feature_surgery(cosines: Tensor, image_level: Tensor) -> Tensor:
    """Subtract from each prompt's cosines [B, P, gh, gw] what all prompts have in common.

    The authors multiply features f and text t channel by channel, weigh by
    w = softmax(2 · image-level cosine) / mean, subtract the mean over prompts and sum channels;
    summing first gives the same without the [gh·gw, P, E] array.

    Args:
        cosines: [B, P, gh, gw].
        image_level: cosines [B, P] of the whole image with each prompt.

    Returns:
        [B, P, gh, gw]; sums to 0 over prompts, so a single prompt's map is 0 everywhere.
    """
    probability = (2 * image_level).softmax(dim=-1)
    weight = probability / probability.mean(dim=-1, keepdim=True)
    weighted = cosines * weight[..., None, None]
    return weighted - weighted.mean(dim=1, keepdim=True)


def with_surgery(run: Callable[..., Tensor], default: Surgery = "none") -> Callable[..., Tensor]:
    """A method that gives cosines, with two options more: ``surgery`` and ``empty``.

    Args:
        run: (subject, image, text, **options) → cosines [B, P, gh, gw]; prompts must not touch
            each other in it.
        default: of ``surgery``.

    Returns:
        The same, with ``surgery`` of type :data:`Surgery` and ``empty``, the embedding [E] of the
        empty class name.
    """

    @wraps(run)
    def operated(
        subject: Subject,
        image: Tensor,
        text: Tensor,
        *,
        surgery: Surgery = default,
        empty: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        if surgery == "auto":
            surgery = "prompts" if len(text) > 1 else "none" if empty is None else "empty"
        if surgery == "none":
            return run(subject, image, text, **options)
        if surgery == "prompts":
            if len(text) == 1:
                raise UsageError("surgery=prompts: one prompt has nothing but what all share")
            with subject.shared(image):
                cosines = run(subject, image, text, **options)
                return feature_surgery(cosines, subject.scores(image, text))
        if empty is None:
            raise UsageError("surgery=empty: the embedding of the empty class name is not given")
        cosines = run(subject, image, torch.cat([text, empty.reshape(1, -1)]), **options)
        return cosines[:, :-1] - cosines[:, -1:]

    own = inspect.signature(run)
    added = [
        inspect.Parameter("surgery", inspect.Parameter.KEYWORD_ONLY, default=default),
        inspect.Parameter("empty", inspect.Parameter.KEYWORD_ONLY, default=None),
    ]
    operated.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *added]
    )
    operated.__annotations__ = {
        **run.__annotations__,
        "surgery": Surgery,
        "empty": Tensor | None,
    }
    return operated
