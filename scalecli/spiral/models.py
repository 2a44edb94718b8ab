"""The one table of models, and how a name finds its line.

Importing this module stays light: torch, scikit-learn and scipy load when a model is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from scalecli.core.errors import UsageError, did_you_mean
from scalecli.spiral.classifier import Classifier, Context, ModelSpec

WEIGHT_DECAY = 1e-3
FOCAL_GAMMA = 2.0
LARGEST = 1_000_000


def _network(features: str, **options: Any) -> Callable[[Context], Classifier]:
    def build(context: Context) -> Classifier:
        from scalecli.spiral.networks import Recipe, StackedNetwork

        return StackedNetwork(Recipe(features, **options), context)

    return build


def _reference(name: str) -> Callable[[Context], Classifier]:
    def build(context: Context) -> Classifier:
        from scalecli.spiral import references

        return references.Reference(getattr(references, name))

    return build


def _plane(name: str, label: str, about: str, features: str = "polar", **options: Any) -> ModelSpec:
    return ModelSpec(
        name,
        label,
        about,
        _network(features, **options),
        LARGEST,
        plane_only=True,
        stacked=True,
    )


_FL: dict[str, Any] = {"focal_gamma": FOCAL_GAMMA}
_WD: dict[str, Any] = {"weight_decay": WEIGHT_DECAY}
_LN: dict[str, Any] = {"layer_norm": True}

MODELS: tuple[ModelSpec, ...] = (
    _plane("mlp-xy", "network (x, y)", "smooth in the plane", "xy"),
    _plane("mlp-polar", "network (polar)", "smooth in radius and angle"),
    _plane("mlp-polar-fl", "network (polar, focal)", "polar; hard points count more", **_FL),
    _plane("mlp-polar-wd", "network (polar, decay)", "polar; small weights", **_WD),
    _plane("mlp-polar-ln", "network (polar, norm)", "polar; layer norm", **_LN),
    _plane(
        "mlp-polar-fl-ln-wd",
        "network (polar, focal + norm + decay)",
        "polar with all three additions of the article",
        **_FL,
        **_LN,
        **_WD,
    ),
    _plane("mlp-spiral", "network (spiral)", "the true prior: the spiral unwound", "spiral"),
    _plane("rff", "network (Fourier)", "random waves of one length scale", "fourier"),
    ModelSpec(
        "mlp",
        "network",
        "smooth in the standardised features",
        _network("raw"),
        LARGEST,
        stacked=True,
    ),
    ModelSpec("forest", "random forest", "axis-aligned boxes", _reference("forest"), 100_000),
    ModelSpec(
        "boosting", "boosting", "axis-aligned steps, added up", _reference("boosting"), LARGEST
    ),
    ModelSpec("svm-rbf", "SVM (RBF)", "Gaussian bumps, wide margin", _reference("svm_rbf"), 10_000),
    ModelSpec("logistic", "logistic", "one straight border", _reference("logistic"), LARGEST),
)
"""Every model but ``knnK``, which exists for every K."""

_BY_NAME = {spec.name: spec for spec in MODELS}
_SHOWN_K = (1, 3, 5)


def names() -> tuple[str, ...]:
    """Names to offer: a few kNN, then the table. ``knnK`` works for any K of at least 1."""
    return (*(f"knn{k}" for k in _SHOWN_K), *_BY_NAME)


def resolve(name: str) -> ModelSpec:
    """The line of the table for a name.

    Raises:
        UsageError: If there is no such model.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    # The length bound keeps a mistyped name from becoming an absurd K.
    if match := re.fullmatch(r"knn([1-9][0-9]{0,6})", name):
        return _knn(int(match[1]))
    raise UsageError(f"unknown model '{name}'; {did_you_mean(name, names())}")


def _knn(k: int) -> ModelSpec:
    def build(context: Context) -> Classifier:
        from scalecli.spiral.knn import KNearest

        return KNearest(k)

    neighbours = "the nearest point decides" if k == 1 else f"vote of the {k} nearest points"
    return ModelSpec(f"knn{k}", f"kNN (k={k})", neighbours, build, LARGEST)
