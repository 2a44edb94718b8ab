"""Words for a classifier: a prompt becomes a vector to put in place of one of its rows.

Sentence embeddings of what the classes are called, and of how WordNet defines them, are mapped to
the classifier's rows by kernel ridge regression, in closed form. So a prompt's vector is a sum of
rows weighed by how near their classes' words are. This is a model of the DeViSE kind (Frome et
al., "DeViSE: A Deep Visual-Semantic Embedding Model", NIPS 2013), not CLIP: it never saw an image
with a text, and knows little of words far from the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalecli.core.errors import UsageError, did_you_mean

Encode = Callable[[Sequence[str]], Tensor]
TEMPLATE = "a photo of a {}"
SHARPNESS = 5.0
"""γ of the kernel exp(γ (cosine − 1)); 3 to 8 rank held-out classes within .01 of each other."""
RIDGE = 0.3
"""λ of the regression; 0.1 to 1 rank held-out classes equally well."""


@dataclass(frozen=True)
class Classes:
    """What a classifier's classes are called."""

    names: tuple[tuple[str, ...], ...]
    """For each class its names, the most usual first."""
    meanings: tuple[str, ...]
    """For each class its definition."""

    def sentences(self) -> tuple[list[str], Tensor]:
        """All that is said of the classes, and which class each sentence is about."""
        said = [
            (TEMPLATE.replace("{}", name), c) for c, all_ in enumerate(self.names) for name in all_
        ]
        said += [(meaning, c) for c, meaning in enumerate(self.meanings)]
        return [sentence for sentence, _ in said], torch.tensor([c for _, c in said])


def imagenet_classes(subset: str = "imagenet-1k") -> Classes:
    """Names and WordNet definitions of a set of ImageNet's classes, in the classifiers' order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    names, meanings = [], []
    for index in range(info.num_classes()):
        listed = info.index_to_description(index)
        names.append(tuple(name.strip() for name in listed.split(",")))
        detailed = info.index_to_description(index, detailed=True)
        meanings.append(detailed.removeprefix(listed).removeprefix(": "))
    return Classes(tuple(names), tuple(meanings))


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """exp(γ (cosine − 1)) [N, M] of unit embeddings [N, S] and [M, S]."""
    return (SHARPNESS * (a @ b.T - 1)).exp()


def fit(texts: Tensor, rows: Tensor) -> Tensor:
    """Coefficients [N, C] with which kernel(prompt, texts) @ coefficients is a prompt's vector.

    Args:
        texts: unit embeddings [N, S].
        rows: the classifier's row [N, C] for each.
    """
    gram = kernel(texts, texts) + RIDGE * torch.eye(len(texts), dtype=texts.dtype)
    solution: Tensor = torch.linalg.solve(gram, rows)
    return solution


class ClassWords:
    """Sentences to classifier vectors [P, C].

    Args:
        rows: the classifier's own vectors [N, C], centred.
        classes: what its classes are called.
        encode: sentences to unit embeddings [P, S]; None if no sentence encoder is installed.
        exact: let the name of a class stand for the class's own row. Otherwise every prompt's
            vector comes from the regression, which shrinks all alike, so that scores compare.
        install: how to get a sentence encoder.
    """

    def __init__(
        self,
        rows: Tensor,
        classes: Classes,
        encode: Encode | None,
        *,
        exact: bool = True,
        install: str = "",
    ) -> None:
        self.rows = rows.float().cpu()
        self.classes = classes
        self.encode = encode
        self.install = install
        self._fitted: tuple[Tensor, Tensor] | None = None
        self._index: dict[str, int] = {}
        if exact:
            for row in reversed(range(len(classes.names))):  # of two of one name the first stays
                self._index.update({name.lower(): row for name in classes.names[row]})

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Classifier vectors [P, C] of sentences.

        Raises:
            UsageError: a sentence names no class and there is no sentence encoder.
        """
        found = [self._row(s) for s in sentences]
        other = [s for s, row in zip(sentences, found, strict=True) if row is None]
        vectors = iter(self._regressed(other)) if other else iter(())
        return torch.stack([next(vectors) if row is None else self.rows[row] for row in found])

    def _row(self, sentence: str) -> int | None:
        before, after = TEMPLATE.split("{}")
        name = sentence.lower().strip().removesuffix(".")
        return self._index.get(name, self._index.get(name.removeprefix(before).removesuffix(after)))

    def _regressed(self, sentences: Sequence[str]) -> Tensor:
        if self.encode is None:
            names = [name for all_ in self.classes.names for name in all_]
            raise UsageError(
                f"'{sentences[0]}' is none of the classifier's classes; "
                f"{did_you_mean(sentences[0].lower(), names)} For any text: {self.install}"
            )
        if self._fitted is None:
            said, owner = self.classes.sentences()
            texts = self.encode(said)
            self._fitted = texts, fit(texts, self.rows[owner])
        texts, coefficients = self._fitted
        return kernel(self.encode(sentences), texts) @ coefficients


def centred_rows(model: Any) -> Tensor:
    """Classifier vectors [N, C] of a timm classifier, less their mean, which moves all alike.

    Raises:
        UsageError: it does not end in one linear layer.
    """
    linear = model.get_classifier()
    if not isinstance(linear, torch.nn.Linear):
        raise UsageError(
            f"{type(model).__name__} ends in {type(linear).__name__}, not in one linear layer; "
            "its classes have no vectors"
        )
    weight = linear.weight.detach()
    return weight - weight.mean(dim=0)
