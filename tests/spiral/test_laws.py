from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scalecli.core.figures import save_figure
from scalecli.spiral.charts import error_curve, f1_curve, region_curves
from scalecli.spiral.laws import LawFit, fit_law, fit_laws, needed_n, prior_worth, prior_worths
from scalecli.spiral.rows import REGIONS, SweepRow
from scalecli.spiral.tables import (
    error_table,
    f1_table,
    law_table,
    region_table,
    worth_table,
)

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
LONG = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
MODELS = {
    "knn1": (1.6, 0.5, 0.0),
    "knn5": (2.2, 0.5, 0.0),
    "mlp-polar": (0.5, 0.5, 0.006),
    "mlp-polar-focal": (0.55, 0.5, 0.008),
}
CONFIG = {"eval": "density", "test_points": 100_000, "data": None}


def planted(
    laws: dict[str, tuple[float, float, float]],
    *,
    noise: float = 0.0,
    sizes: tuple[int, ...] = SIZES,
    seeds: int = 5,
    regions: tuple[str, ...] = ("all",),
) -> list[SweepRow]:
    rng = np.random.default_rng(7)
    rows = []
    for model, (a, b, c) in laws.items():
        for n in sizes:
            for seed in range(seeds):
                for region in regions:
                    error = (a * n ** (-b) + c) * float(np.exp(noise * rng.normal()))
                    f1 = None if region == "tip" and n == 100 else max(0.0, 1 - 4.4 * error)
                    rows.append(SweepRow(model, n, seed, region, f1, error, 1 - error, 0, 0, 12))
    return rows


def fit(rows: list[SweepRow], model: str = "m", *, test_points: int = 100_000) -> LawFit:
    found = fit_law(rows, model, test_points=test_points, resamples=40)
    assert found is not None
    return found


def test_planted_law_lies_inside_the_interval() -> None:
    law = fit(planted({"m": (1.0, 0.5, 0.005)}, noise=0.1, seeds=8))
    assert law.b_low is not None
    assert law.b_high is not None
    assert law.c_low is not None
    assert law.c_high is not None
    assert law.b_low <= 0.5 <= law.b_high
    assert law.c_low <= 0.005 <= law.c_high
    assert law.a == pytest.approx(1.0, rel=0.3)
    assert law.holdout_n == 1_000_000
    assert law.holdout_ratio == pytest.approx(1.0, rel=0.2)


def test_noise_free_law_is_exact() -> None:
    law = fit(planted({"m": (1.0, 0.5, 0.005)}))
    assert (law.a, law.b, law.c) == pytest.approx((1.0, 0.5, 0.005), rel=1e-3)
    assert law.holdout_ratio == pytest.approx(1.0, rel=1e-3)


def test_not_reachable_at_or_below_the_floor() -> None:
    law = LawFit("m", 1.0, 0.5, 0.005, None, None, None, None, False, None, None)
    assert needed_n(law, 0.004).n is None
    assert needed_n(law, 0.005).n is None
    with pytest.raises(ValueError, match="above 0"):
        needed_n(law, 0.0)


def test_needed_n_inverts_the_law() -> None:
    law = LawFit("m", 1.3, 0.42, 0.003, None, None, None, None, False, None, None)
    for n in (10.0, 1e4, 1e7):
        assert needed_n(law, law.predict(n)).n == pytest.approx(n)


def test_few_sizes() -> None:
    three = fit(planted({"m": (1.0, 0.5, 0.0)}, sizes=SIZES[:3]))
    assert three.c_fixed
    assert three.c == 0
    assert three.holdout_n == 10_000
    two = fit(planted({"m": (1.0, 0.5, 0.0)}, sizes=SIZES[:2]))
    assert two.holdout_n is None
    assert two.b == pytest.approx(0.5, rel=1e-4)
    assert fit_law(planted({"m": (1, 0.5, 0)}, sizes=(100,)), "m", test_points=10) is None


def test_one_seed_has_no_interval() -> None:
    law = fit(planted({"m": (1.0, 0.5, 0.0)}, seeds=1))
    assert law.b_low is None
    assert needed_n(law, 0.01).low is None


def test_error_of_zero_counts_half_a_test_point() -> None:
    rows = planted({"m": (1.0, 0.5, 0.0)}, sizes=SIZES[:2])
    rows += [SweepRow("m", 10_000, seed, "all", 1.0, 0.0, 1.0, 0, 0, 12) for seed in range(5)]
    assert np.isfinite(fit(rows, test_points=1_000).b)


def test_prior_worth_gives_the_planted_ratio() -> None:
    # a·N^(−1/2): half the constant is worth four times the data, beyond the last size too.
    worths = prior_worth(
        planted({"knn1": (2.0, 0.5, 0.0), "m": (1.0, 0.5, 0.0)}),
        "m",
        test_points=10**9,
        resamples=10,
    )
    assert [w.n for w in worths] == list(SIZES)
    assert [w.factor for w in worths] == pytest.approx([4.0] * 5, rel=1e-3)
    assert [w.extrapolated for w in worths] == [False] * 4 + [True]


@pytest.mark.parametrize("sizes", [SIZES, LONG])
@pytest.mark.parametrize("seeds", [1, 3])
def test_tables_fit_in_80_columns(sizes: tuple[int, ...], seeds: int) -> None:
    rows = planted(MODELS, noise=0.1, sizes=sizes, seeds=seeds, regions=REGIONS)
    fits = fit_laws(rows, test_points=100_000, targets=(0.1, 0.01, 0.001), resamples=2)
    worths = prior_worths(rows, test_points=100_000, resamples=2)
    for table in (
        f1_table(rows, CONFIG),
        error_table(rows, CONFIG),
        region_table(rows, CONFIG),
        law_table(fits),
        worth_table(worths),
    ):
        text = table.plain()
        assert max(map(len, text.splitlines())) <= 80, text
        assert all(i < len(table.rows) for i, _ in table.emphasis)


def test_f1_table_prints_the_article_and_the_difference() -> None:
    text = f1_table(planted(MODELS, seeds=3), CONFIG).plain()
    assert text.count("  article") == 2
    assert "0.38" in text
    assert "article" not in f1_table(planted(MODELS), {**CONFIG, "data": "d.csv"}).plain()


def test_charts_build(tmp_path: Path) -> None:
    rows = planted(MODELS, noise=0.1, seeds=2, regions=REGIONS)
    fits = fit_laws(rows, test_points=100_000, resamples=2)
    theory = {"knn1": [(1e3, 0.05), (1e6, 0.0016)]}
    figures = [
        f1_curve(rows, CONFIG),
        error_curve(rows, CONFIG, theory, fits),
        error_curve(planted(MODELS, sizes=(100,), seeds=1), CONFIG),
        region_curves(rows, CONFIG),
    ]
    for i, figure in enumerate(figures):
        assert save_figure(figure, tmp_path / f"{i}.png", {}).stat().st_size > 1_000
