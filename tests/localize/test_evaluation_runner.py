"""Runs: every method of a model, once per image, resumed without a difference."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalecli.core.errors import ScalecliError, UsageError
from scalecli.core.results import RowLog
from scalecli.localize import load
from scalecli.localize.encoder import Encoder
from scalecli.localize.evaluation import charts, published, tables
from scalecli.localize.evaluation.causal import blur, curves
from scalecli.localize.evaluation.config import EvalConfig, parse_variant
from scalecli.localize.evaluation.contenders import contenders, open_problem
from scalecli.localize.evaluation.runner import Evaluator, evaluate, missing
from scalecli.localize.evaluation.speed import Cost, measure
from scalecli.localize.evaluation.summary import Summary, spread, summarise
from tests.localize.tiny import tiny_encoder

IMAGES = 6
CONFIG = EvalConfig(
    model=("shapes",), method=("gem", "patch-text", "gem:blocks=2"), limit=IMAGES, workers=1,
    resamples=200,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny_encoder()


@pytest.fixture
def evaluator(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    return make(CONFIG, encoder, monkeypatch)


def make(config: EvalConfig, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    monkeypatch.setattr(load, "load_encoder", lambda _config: encoder)
    return Evaluator(config)


def run(evaluator: Evaluator, log: RowLog, *, most: int | None = None) -> None:
    for number, rows in enumerate(evaluate(evaluator, missing(evaluator, log.done))):
        if number == most:
            break
        for key, row in rows:
            log.append(key, [row])


def conclude(evaluator: Evaluator, log: RowLog) -> Summary:
    costs = {(0, variant.label): Cost(0.1, None) for variant in evaluator.models[0].variants}
    return summarise(evaluator, log.entries(), costs)


def same(first: Summary, second: Summary) -> bool:
    np.testing.assert_array_equal(first.image_miou, second.image_miou)
    return first.rows == second.rows and first.confusion == second.confusion


def test_a_run_scores_every_image_and_method(evaluator: Evaluator, tmp_path: Path) -> None:
    log = RowLog(tmp_path / "rows.jsonl", keep_rows=False)
    run(evaluator, log)
    assert len(log.done) == IMAGES * 3
    assert not any(log.done.values())  # nothing is held in memory
    found = conclude(evaluator, log)
    assert [row.images for row in found.rows] == [IMAGES] * 3
    values = [row.miou[0] or 0.0 for row in found.rows]
    assert values == sorted(values, reverse=True)
    baseline = next(row for row in found.rows if row.method == "patch-text")
    assert baseline.gain == (None, None, None)
    gem = next(row for row in found.rows if row.method == "gem")
    assert gem.gain[0] == pytest.approx((gem.miou[0] or 0) - (baseline.miou[0] or 0))
    scored = sum(int((item.read().labels > 0).sum()) for item in evaluator.problem.dataset.items)
    assert sum(map(sum, found.confusion)) == scored
    assert len(spread(evaluator, found)) == 6
    log.close()


def test_resumed_equals_undisturbed(evaluator: Evaluator, tmp_path: Path) -> None:
    whole = RowLog(tmp_path / "whole.jsonl")
    run(evaluator, whole)
    expected = conclude(evaluator, whole)
    part = RowLog(tmp_path / "part.jsonl")
    run(evaluator, part, most=2)
    part.close()
    text = part.path.read_bytes()
    part.path.write_bytes(text[: len(text) - 40])  # killed in the middle of a line
    again = RowLog(part.path)
    left = list(missing(evaluator, again.done))
    assert [len(task.keys) for task in left] == [1, 3, 3, 3, 3]
    run(evaluator, again)
    assert same(conclude(evaluator, again), expected)
    assert not list(missing(evaluator, again.done))
    for log in (whole, again):
        log.close()


def test_sharing_a_pass_changes_no_number(evaluator: Evaluator) -> None:
    task = next(missing(evaluator, {}))
    together = dict(evaluator(task))
    for key in task.keys:
        ((_, alone),) = evaluator(dataclasses.replace(task, keys=frozenset({key})))
        assert dataclasses.replace(alone, seconds=0.0) == dataclasses.replace(
            together[key], seconds=0.0
        )


def test_keys_change_with_what_matters(
    evaluator: Evaluator, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = set(evaluator.keys(0))
    other: list[tuple[EvalConfig, Encoder]] = [
        (dataclasses.replace(CONFIG, change=("size=40", "resize=short")), encoder),
        (dataclasses.replace(CONFIG, points=7), encoder),
        (dataclasses.replace(CONFIG, seed=1), encoder),
        (dataclasses.replace(CONFIG, deletion=3), encoder),
        (CONFIG, dataclasses.replace(encoder, fingerprint="1" * 16)),
    ]
    for config, model in other:
        assert own.isdisjoint(make(config, model, monkeypatch).keys(0))
    # More methods, more images or another bootstrap reuse what is there.
    more = dataclasses.replace(CONFIG, method=("gem", "sclip"), limit=9, resamples=300)
    assert len(own & set(make(more, encoder, monkeypatch).keys(0))) == 1


def test_methods_that_cannot_are_left_out_of_all_or_refused(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contend(
        *methods: str, models: tuple[str, ...] = ("shapes",)
    ) -> tuple[list[str], list[str]]:
        config = dataclasses.replace(CONFIG, method=methods, model=models)
        monkeypatch.setattr(load, "load_encoder", lambda _config: encoder)
        found, notes = contenders(config, open_problem(config))
        return [v.label for v in found[0].variants], notes

    labels, notes = contend("all")
    assert {"gem", "patch-text", "gradcam"} <= set(labels)
    assert not notes
    with pytest.raises(UsageError, match="'gme' does not apply to tiny; did you mean 'gem'"):
        contend("gme")
    with pytest.raises(UsageError, match="none of the models; did you mean 'gem'"):
        contend("gme", models=("shapes", "embedded"))
    with pytest.raises(UsageError, match=r"has no option 'depth'; it takes: .*blocks"):
        contend("gem:depth=3")
    with pytest.raises(UsageError, match="applies to none"):
        contend("gem", "scorecam", models=("shapes", "embedded"))


def test_maps_that_do_not_compare_are_weighed_and_marked(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, method=("gem", "attention-vv", "gradcam"), limit=2)
    evaluator = make(config, encoder, monkeypatch)
    log = RowLog(tmp_path / "rows.jsonl")
    run(evaluator, log)
    found = conclude(evaluator, log)
    marked = {row.method for row in found.rows if row.weighted}
    assert marked == {"attention-vv"}
    shown = tables.quality(found.rows, {"dataset": "d", "protocol": "p", "baselines": []}).plain()
    assert "attention-vv †" in shown
    assert "gem †" not in shown
    log.close()


def test_variants() -> None:
    found = parse_variant("gem:iterations=3:temperature=0.5")
    assert (found.method, found.options) == ("gem", {"iterations": 3, "temperature": 0.5})
    for bad in ("gem:iterations", "gem:iterations="):
        with pytest.raises(UsageError, match="gem:iterations=3"):
            parse_variant(bad)


def test_a_map_with_nan_is_an_error(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> torch.Tensor:
        return torch.full((1, 8, 4, 4), torch.nan)

    monkeypatch.setattr(Encoder, "maps", broken)
    with pytest.raises(ScalecliError, match="NaN or infinity"):
        evaluator(next(missing(evaluator, {})))


def test_deletion_finds_the_pixels_that_decide(encoder: Encoder) -> None:
    # A model that sees only the left half: a map of that half loses the class at once.
    text = torch.eye(2)

    class LeftHalf:
        def scores(self, image: torch.Tensor, _text: torch.Tensor) -> torch.Tensor:
            left = image[..., : image.shape[-1] // 2].mean(dim=(1, 2, 3))
            return torch.stack([left, -left], dim=1)

    left_half: Any = LeftHalf()
    seeing = dataclasses.replace(encoder, subject=left_half, logit_scale=5.0)
    pixels = torch.ones(1, 3, 16, 16)
    pixels[..., 8:] = -1
    half = torch.zeros(16, 16)
    half[:, :8] = 1
    right = curves(seeing, pixels, half, text, slice(0, 1), steps=8).areas
    wrong = curves(seeing, pixels, -half, text, slice(0, 1), steps=8).areas
    assert right[0] < wrong[0]
    assert right[1] > wrong[1]
    found = curves(seeing, pixels, half, text, slice(0, 1), steps=8)
    assert found.deletion[0] == found.insertion[-1]  # all there
    assert found.deletion[-1] == pytest.approx(0.5)  # nothing there


def test_blur_keeps_a_constant_and_smooths(encoder: Encoder) -> None:
    constant = torch.full((1, 3, 20, 20), 0.7)
    torch.testing.assert_close(blur(constant), constant)
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert blur(noise).std() < 0.7 * noise.std()


def test_deletion_fills_rows_and_figures(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, deletion=4, limit=2, method=("gem",))
    evaluator = make(config, encoder, monkeypatch)
    log = RowLog(tmp_path / "rows.jsonl")
    run(evaluator, log)
    (row,) = conclude(evaluator, log).rows
    assert 0 < (row.deletion[0] or 0) < 1
    assert 0 < (row.insertion[0] or 0) < 1
    log.close()


def test_cost_is_measured(evaluator: Evaluator) -> None:
    contender = evaluator.models[0]
    sample = evaluator.problem.dataset.items[0].read()
    found = measure(contender, contender.variants[0], evaluator.views(contender, sample), 8)
    assert found.seconds > 0
    assert found.peak_mb is None or found.peak_mb > 1


def test_published_figures_need_the_same_protocol_and_backbone() -> None:
    found = published.find("voc21", "voc", "ViT-B-16-quickgelu (openai)", "sclip")
    assert found is not None
    assert found.miou == 0.5963
    for asked in (
        ("voc20", "ade20k", "ViT-B-16 (openai)", "sclip"),
        ("voc21", "voc", "ViT-B-16 (laion2b_s34b_b88k)", "sclip"),
        ("voc21", "voc", "ViT-B-16 (openai)", "sclip:x=1"),
    ):
        assert published.find(*asked) is None


@pytest.mark.parametrize("wanted", [[0.5] * 4, [0.0, 0.01, 0.9, 1.0], [0.98, 0.99, 1.0], [0.3]])
def test_names_keep_apart_inside_the_chart(wanted: list[float]) -> None:
    found = charts.apart(wanted, 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(found))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in found)
    assert len(found) == len(wanted)
    assert len(charts.apart([0.5] * 30, 0.1)) == 30
