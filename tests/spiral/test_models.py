from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from scalecli.core.errors import UsageError
from scalecli.spiral import networks
from scalecli.spiral.classifier import Context, Labels, Points
from scalecli.spiral.knn import KNearest
from scalecli.spiral.models import MODELS, names, resolve

ALL = (*names(), "knn7")
NETWORKS = ("mlp-polar", "mlp-polar-fl-ln-wd", "rff")


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The laws hold at any length; small operations on shared cores are fastest on one thread.
    monkeypatch.setattr(networks, "FULL_BATCH_STEPS", 150)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blobs(seeds: int, n: int, classes: int = 2, d: int = 2) -> tuple[Points, Labels]:
    rng = np.random.default_rng(n)
    y_SN = np.tile(np.arange(n) % classes, (seeds, 1)).astype(np.int64)
    # On a diagonal, clear of the cut of the angle and of the origin.
    x_SND = rng.normal(0, 0.1, (seeds, n, d)) + 0.2 + 0.7 * y_SN[..., None]
    return x_SND, y_SN


@pytest.mark.parametrize("k", [1, 3, 5, 4])
@pytest.mark.parametrize("d", [1, 2, 3, 20])
def test_knn_equals_brute_force_and_sklearn(k: int, d: int) -> None:
    rng = np.random.default_rng(10 * k + d)
    x_SND = rng.normal(size=(2, 60, d))
    y_SN = rng.integers(0, 3, (2, 60))
    # Enough queries for the sorted path in the plane.
    x_SQD = rng.normal(size=(2, 4100, d))
    model = KNearest(k)
    model.fit(x_SND, y_SN, [0, 1])
    got_SQ = model.predict(x_SQD)
    for s in range(2):
        gap_QN = ((x_SQD[s][:, None] - x_SND[s][None]) ** 2).sum(-1)
        near_QK = y_SN[s][np.argsort(gap_QN, axis=1)[:, :k]]
        want_Q = [int(np.bincount(row, minlength=3).argmax()) for row in near_QK]
        np.testing.assert_array_equal(got_SQ[s], want_Q)
        sk = KNeighborsClassifier(k).fit(x_SND[s], y_SN[s])
        np.testing.assert_array_equal(got_SQ[s], sk.predict(x_SQD[s]))


def test_knn_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x_SND, y_SN = blobs(1, 100)
    x_SQD = np.random.default_rng(0).normal(size=(1, 5000, 2))
    model = KNearest(5)
    model.fit(x_SND, y_SN, [0])
    whole = model.predict(x_SQD)
    monkeypatch.setattr("scalecli.spiral.knn.CHUNK", 333)
    np.testing.assert_array_equal(model.predict(x_SQD), whole)


def test_knn_needs_k_points() -> None:
    x_SND, y_SN = blobs(1, 4)
    with pytest.raises(UsageError, match="knn5: needs at least 5 training points, has 4"):
        KNearest(5).fit(x_SND, y_SN, [0])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_seed_does_not_see_its_neighbours(name: str) -> None:
    x_SND, y_SN = blobs(3, 200)
    x_SQD = np.random.default_rng(1).uniform(0, 1, (3, 2000, 2))
    together = resolve(name).build(Context())
    together.fit(x_SND, y_SN, [4, 5, 6])
    got_SQ = together.predict(x_SQD)
    for s in range(3):
        alone = resolve(name).build(Context())
        alone.fit(x_SND[s : s + 1], y_SN[s : s + 1], [4 + s])
        assert (alone.predict(x_SQD[s : s + 1])[0] == got_SQ[s]).mean() >= 0.999


@pytest.mark.parametrize("name", ALL)
def test_learns_two_blobs(name: str) -> None:
    x_SND, y_SN = blobs(2, 200)
    x_SQD, y_SQ = blobs(2, 500)
    model = resolve(name).build(Context())
    model.fit(x_SND, y_SN, [0, 1])
    got_SQ = model.predict(x_SQD)
    assert got_SQ.dtype == np.int64
    assert got_SQ.shape == y_SQ.shape
    assert (got_SQ == y_SQ).mean(axis=1).min() > 0.9


@pytest.mark.parametrize(
    "name", [n for n in ALL if n.startswith("knn") or not resolve(n).plane_only]
)
def test_learns_three_classes_in_five_dimensions(name: str) -> None:
    x_SND, y_SN = blobs(2, 200, classes=3, d=5)
    model = resolve(name).build(Context(classes=3))
    model.fit(x_SND, y_SN, [0, 1])
    assert (model.predict(x_SND) == y_SN).mean() > 0.9


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("only", [0, 1])
def test_one_class_gives_that_class_and_leaves_other_seeds_alone(name: str, only: int) -> None:
    x_SND, y_SN = blobs(2, 50)
    y_SN[0] = only
    model = resolve(name).build(Context())
    model.fit(x_SND, y_SN, [0, 1])
    got_SQ = model.predict(x_SND)
    assert (got_SQ[0] == only).all()
    assert (got_SQ[1] == y_SN[1]).mean() > 0.9


def test_names_resolve_to_themselves_and_are_unique() -> None:
    assert len(set(names())) == len(names())
    assert [resolve(n).name for n in names()] == list(names())
    assert {spec.name for spec in MODELS} <= set(names())
    assert resolve("knn17").name == "knn17"


@pytest.mark.parametrize(
    ("wrong", "meant"), [("mlp-pola", "mlp-polar"), ("knn0", "knn"), ("forrest", "forest")]
)
def test_unknown_name_suggests(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean .*{meant}"):
        resolve(wrong)


def test_the_table_loads_without_heavy_imports() -> None:
    code = (
        "import sys, scalecli.spiral.models\n"
        "print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
