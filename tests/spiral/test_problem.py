"""Laws of the manifold and the density."""

import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from scalecli.spiral.config import DensityConfig, ManifoldConfig, ProblemConfig
from scalecli.spiral.knn import KNearest
from scalecli.spiral.problem import KNN_CONSTANTS, Problem


@pytest.mark.parametrize(
    "config",
    [
        ManifoldConfig(),
        ManifoldConfig(turns=2.5, width=0.5, taper=1.5, tip_degrees=20),
        ManifoldConfig(turns=6, width=0.9, taper=0.3, tip_degrees=-70),
    ],
)
def test_inside_agrees_with_the_polygon_on_a_million_points(config: ManifoldConfig) -> None:
    manifold = Problem(ProblemConfig(manifold=config)).manifold
    x = np.random.default_rng(0).uniform(-1.1, 1.1, (1_000_000, 2))
    curve = manifold.boundary(2_400)
    by_polygon = Polygon(curve).contains_points(x)
    differ = manifold.inside(x) != by_polygon
    # The polygon is a chain of chords: only points within its sagitta may differ.
    assert differ.mean() < 5e-4
    if differ.any():
        gap = np.abs(x[differ][:, None] - curve[None]).max(axis=2).min(axis=1)
        assert gap.max() < 0.02


def test_tip_points_up_left_and_curve_is_closed() -> None:
    manifold = Problem(ProblemConfig()).manifold
    assert manifold.tip == pytest.approx([-np.sqrt(0.5), np.sqrt(0.5)])
    curve = manifold.boundary()
    assert np.hypot(*(curve[0] - curve[-1])) < 1e-9
    assert np.hypot(*curve.T).max() == pytest.approx(1.0)


def test_arc_length_approaches_that_of_two_archimedean_arms() -> None:
    config = ManifoldConfig(width=1e-4)
    manifold = Problem(ProblemConfig(manifold=config)).manifold
    end = manifold.theta_end
    arm = (end * np.sqrt(1 + end**2) + np.arcsinh(end)) / (2 * end)
    assert manifold.arc_length() == pytest.approx(2 * arm, rel=1e-4)


def test_density_integrates_to_one_and_samples_follow_it() -> None:
    density = Problem(ProblemConfig()).density
    side = np.linspace(-2.5, 2.5, 500)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    assert density.pdf(grid).sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=1e-4)
    box = (-0.3, 0.4, -0.2, 0.5)
    x = density.sample(200_000, np.random.default_rng(0))
    share = np.mean((x[:, 0] > -0.3) & (x[:, 0] < 0.4) & (x[:, 1] > -0.2) & (x[:, 1] < 0.5))
    assert share == pytest.approx(density.box_mass(box), abs=0.005)


def test_box_sampling_is_the_conditional_density() -> None:
    density = Problem(ProblemConfig()).density
    box = (-0.4, 0.3, -0.1, 0.6)
    x = density.sample(400_000, np.random.default_rng(0))
    kept = x[(x[:, 0] > -0.4) & (x[:, 0] < 0.3) & (x[:, 1] > -0.1) & (x[:, 1] < 0.6)]
    drawn = density.sample_box(len(kept), box, np.random.default_rng(1))
    assert drawn.mean(axis=0) == pytest.approx(kept.mean(axis=0), abs=0.005)
    assert np.cov(drawn.T) == pytest.approx(np.cov(kept.T), abs=0.002)


def test_tip_is_sparse_by_construction() -> None:
    for seed in range(5):
        problem = Problem(ProblemConfig(density=DensityConfig(seed=seed)))
        gaps = np.hypot(*(problem.density.means_K2 - problem.manifold.tip).T)
        assert gaps.min() >= problem.config.density.tip_clearance


def test_label_noise_flips_the_stated_share_of_training_labels_only() -> None:
    clean, noisy = Problem(ProblemConfig()), Problem(ProblemConfig(label_noise=0.2))
    x, y = noisy.sample(50_000, 3)
    assert np.mean(y != clean.manifold.inside(x)) == pytest.approx(0.2, abs=0.01)
    points, labels = noisy.test_sets("density", 1000, 0)["all"]
    assert (labels == clean.manifold.inside(points)).all()


def test_same_seed_same_sample_other_seed_other_sample() -> None:
    problem = Problem(ProblemConfig())
    assert (problem.sample(50, 1)[0] == problem.sample(50, 1)[0]).all()
    assert not (problem.sample(50, 1)[0] == problem.sample(50, 2)[0]).any()


@pytest.mark.parametrize("k", sorted(KNN_CONSTANTS))
def test_knn_error_follows_the_theory(k: int) -> None:
    """Within 5 % at N = 100,000 (k=1) beyond the binomial interval; thin arms bias larger k."""
    problem = Problem(ProblemConfig())
    n = 100_000 if k == 1 else 300_000
    x, y = problem.sample(n, 0)
    x_test, truth = problem.test_sets("density", 200_000, 0)["all"]
    model = KNearest(k)
    model.fit(x[None], y[None], [0])
    error = float(np.mean(model.predict(x_test[None])[0] != truth))
    predicted = problem.knn_theory(k, n)
    assert predicted is not None
    binomial = 2 * np.sqrt(error * (1 - error) / len(truth))
    assert abs(error - predicted) < 0.05 * predicted + binomial
