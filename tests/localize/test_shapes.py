from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from torch import nn

from scalecli.core.errors import ScalecliError, UsageError
from scalecli.localize.absent import contrast, verdict
from scalecli.localize.images import to_tensor
from scalecli.localize.load import load_encoder
from scalecli.localize.model_config import ModelConfig
from scalecli.localize.shapes import load_shapes, training
from scalecli.localize.shapes.accuracy import held_out_accuracy
from scalecli.localize.shapes.captions import Caption, Mention, describe, truth
from scalecli.localize.shapes.config import TrainShapesConfig
from scalecli.localize.shapes.model import SIDE, build
from scalecli.localize.shapes.muon import Muon, orthogonal
from scalecli.localize.shapes.painting import BACKGROUND_PAINTERS, Placed, _coverage
from scalecli.localize.shapes.scenes import (
    BACKGROUNDS,
    CLASS_NAMES,
    COLOURS,
    HELD_OUT_PAIRS,
    SHAPES,
    Plan,
    Thing,
    altered,
    painted,
    plan,
    scenes,
)
from scalecli.localize.shapes.tokenizer import (
    CONTEXT,
    VOCABULARY,
    decode,
    tokenize,
    unknown_words,
)
from scalecli.localize.shapes.training import Trainer, batch, contrastive_loss, recipe, stage, train
from scalecli.localize.shapes.weights import SHIPPED, load_record, load_weights, save_weights

TINY = TrainShapesConfig(steps=20, batch=8, warmup=5, measure_every=10, test_scenes=32, bf16=False)


def thing(shape: str, colour: str, texture: str = "plain", at: float = 24.0) -> Thing:
    return Thing(shape, colour, texture, "small", Placed(at, at, 12.0, 0.0))


# --- scenes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_a_scene_depends_on_its_split_seed_and_number_only(split: Any) -> None:
    first = list(scenes(split, 3, 6))
    again = painted(plan(split, 3, 5))
    np.testing.assert_array_equal(first[5].image, again.image)
    np.testing.assert_array_equal(first[5].objects, again.objects)
    assert first[5].plan == again.plan
    others = [next(iter(scenes(split, 4, 1))), first[1], painted(plan("train", 3, 0, side=64))]
    assert all(other.plan != first[0].plan for other in others)


def test_pairs_held_out_of_training_stand_in_every_held_out_scene() -> None:
    train_things = [t for i in range(400) for t in plan("train", 0, i).things]
    seen = {t.pair for t in train_things}
    assert seen == {(s, c) for s in SHAPES for c in COLOURS} - HELD_OUT_PAIRS
    for i in range(200):
        assert {t.pair for t in plan("held-out", 0, i).things} & HELD_OUT_PAIRS
    # Every shape and every colour lacks exactly one partner.
    assert sorted(s for s, _ in HELD_OUT_PAIRS) == sorted(SHAPES)
    assert sorted(c for _, c in HELD_OUT_PAIRS) == sorted(COLOURS)


def test_twins_differ_a_little_and_never_show_a_held_out_pair() -> None:
    rng = np.random.default_rng(0)
    for i in range(200):
        original = plan("train", 1, i)
        twin = altered(original, rng)
        changed = sum(a != b for a, b in zip(original.things, twin.things, strict=True))
        assert 1 <= changed <= 2
        assert [t.placed for t in twin.things] == [t.placed for t in original.things]
        assert not {t.pair for t in twin.things} & HELD_OUT_PAIRS


def test_masks_are_where_the_things_are() -> None:
    for scene in scenes("held-out", 5, 40):
        rows, columns = np.mgrid[:96, :96] + 0.5
        assert scene.image.shape == (96, 96, 3)
        values = {0} | {1 + CLASS_NAMES.index(t.shape) for t in scene.plan.things}
        assert set(np.unique(scene.classes)) == values
        for i, t in enumerate(scene.plan.things):
            mask = scene.objects == i + 1
            distance = np.hypot(columns - t.placed.x, rows - t.placed.y)
            assert distance[mask].max() <= t.placed.radius + 1
            assert (scene.classes[mask] == 1 + CLASS_NAMES.index(t.shape)).all()
            assert not (mask & ~scene.mask(t.shape, t.colour, t.texture)).any()


def test_masks_match_the_pixels() -> None:
    # A plain thing on a flat ground, both known: the mask is where the ink is.
    for shape in SHAPES:
        scene = painted(Plan((thing(shape, "red"),), "grey", 48, grain=1))
        pixels = scene.image.astype(int)
        redness = (pixels[..., 0] - pixels[..., 1]) / 190  # of its ink; grey has none
        mask = scene.classes > 0
        assert mask[redness > 0.7].all(), shape
        assert (redness[mask] > 0.3).all(), shape


def test_little_of_any_thing_is_covered() -> None:
    shares = []
    for i in range(150):
        scene = painted(plan("train", 2, i))
        for number, t in enumerate(scene.plan.things, 1):
            alone = painted(replace(scene.plan, things=(t,))).objects > 0
            shares.append((scene.objects == number).sum() / alone.sum())
    assert min(shares) > 0.75
    assert np.mean(shares) > 0.99


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi),
        ("square", 2.0),
        ("triangle", 3 * np.sqrt(3) / 4),
        ("ring", np.pi * (1 - 0.55**2)),
        ("star", 10 * 0.5 * 0.42 * np.sin(np.pi / 5)),
        ("cross", 8 * 0.33 * np.sqrt(1 - 0.33**2) - 4 * 0.33**2),
    ],
)
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_outlines_cover_the_area_of_their_figures(shape: str, area: float, angle: float) -> None:
    *_, alpha = _coverage(Placed(40.0, 40.0, 30.0, angle), shape, 80)
    assert alpha.sum() / 30**2 == pytest.approx(area, rel=0.04)


def test_every_background_has_its_painter() -> None:
    assert set(BACKGROUND_PAINTERS) == set(BACKGROUNDS)


# --- captions ---------------------------------------------------------------------------------


def test_captions_read_well() -> None:
    caption = Caption(
        (
            Mention("star", "red", "striped", "small"),
            Mention("circle", "orange"),
            Mention("moon"),
        ),
        "wooden",
        "a photo of ",
    )
    assert str(caption) == (
        "a photo of a small striped red star, an orange circle and a moon on a wooden background"
    )


def test_a_caption_is_true_of_its_own_scene() -> None:
    rng = np.random.default_rng(0)
    plans = [plan("train", 0, i) for i in range(60)]
    captions = [describe(p, rng) for p in plans]
    true = truth(plans, captions)
    assert true.diagonal().all()
    assert true.mean() < 0.1


def test_truth_is_what_the_words_say() -> None:
    ground = Plan((thing("star", "red"), thing("ring", "blue", at=60.0)), "grey", 96, 0)
    claims = {
        Caption((Mention("star"),)): True,
        Caption((Mention("star", "red"), Mention("ring"))): True,
        Caption((Mention("star", "blue"),)): False,
        Caption((Mention("star", "blue"), Mention("ring", "red"))): False,
        Caption((Mention("heart"),)): False,
        Caption((Mention("star"), Mention("heart"))): False,
        Caption((Mention("star", texture="striped"),)): False,
        Caption((Mention("star", size="small"),)): True,
        Caption((Mention("star"),), "grey"): True,
        Caption((Mention("star"),), "sandy"): False,
    }
    assert truth([ground], list(claims))[0].tolist() == list(claims.values())


def test_held_out_pairs_are_never_said_in_training() -> None:
    phrases = [re.compile(rf"\b{colour} {shape}\b") for shape, colour in HELD_OUT_PAIRS]
    for step in range(3):
        for row in batch(replace(TINY, batch=32), step).ids:
            assert not any(phrase.search(decode(row)) for phrase in phrases)


# --- tokenizer --------------------------------------------------------------------------------


def test_captions_survive_the_tokenizer() -> None:
    rng = np.random.default_rng(1)
    for i in range(300):
        caption = str(describe(plan("train", 0, i), rng))
        ids = tokenize(caption)
        assert decode(ids[0]) == caption.replace(",", "")
        assert ids.shape == (1, CONTEXT)
        assert ids.argmax() == (ids != 0).sum() - 1  # the end, where the text is read off
        assert ids.max() == VOCABULARY - 1
        assert not unknown_words(caption)


def test_words_outside_the_language_are_one_unknown_word() -> None:
    assert unknown_words("A photo of the Zebra!") == ("the", "zebra")
    assert decode(tokenize("a zebra on a star")[0]) == "a ? on a star"
    assert tokenize(["star", ""]).shape == (2, CONTEXT)
    assert tokenize("star " * 100)[0, -1] == VOCABULARY - 1


# --- training ---------------------------------------------------------------------------------


def test_the_loss_is_clips_when_nothing_is_true_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        nn.functional.normalize(torch.randn(6, 5, generator=generator), dim=-1) for _ in range(2)
    )
    ours = contrastive_loss(9 * images @ texts.T, torch.eye(6, dtype=torch.bool))
    torch.testing.assert_close(ours, ClipLoss()(images, texts, torch.tensor(9.0)))


def test_true_captions_of_other_scenes_are_no_rivals() -> None:
    logits = torch.zeros(2, 4)
    true = torch.tensor([[True, False, True, False], [False, True, False, True]])
    base = contrastive_loss(logits, true)
    also = true.clone()
    also[0, 3] = True
    # Raising the logit of a rival costs; of a caption that is true, it costs nothing.
    raised = logits.clone()
    raised[0, 3] = 5.0
    assert contrastive_loss(raised, true) > base
    torch.testing.assert_close(contrastive_loss(raised, also), contrastive_loss(logits, also))


def test_stages_follow_each_other_to_the_end() -> None:
    sides = [stage(TINY, step).side for step in range(TINY.steps)]
    assert sides == sorted(sides)
    long = replace(TINY, steps=1000)
    assert stage(long, 0) == training.CURRICULUM[0]
    assert stage(long, 999) == training.CURRICULUM[-1]
    assert training.CURRICULUM[-1].keep == 1.0


def test_all_patches_kept_is_the_models_own_forward() -> None:
    trainer = Trainer(TINY)
    images = batch(TINY, TINY.steps - 1).images
    with torch.no_grad():
        ours = training.image_features(trainer.tower, images, 1.0, torch.Generator())
        torch.testing.assert_close(ours, trainer.model.encode_image(images), rtol=1e-4, atol=1e-5)


def test_texts_without_their_padding_are_the_models_own() -> None:
    model = build(0)
    ids = tokenize(["a star", "a small striped red star and a large blue ring", ""])
    with torch.no_grad():
        ours = training.text_features(model.text, ids)
        torch.testing.assert_close(ours, model.encode_text(ids), rtol=1e-4, atol=1e-5)


def test_without_rivals_there_is_no_loss() -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    contrastive_loss(logits, torch.ones(2, 4, dtype=torch.bool)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_twenty_steps_lower_the_loss() -> None:
    config = replace(TINY, steps=1000, batch=16)
    trainer = Trainer(config)
    unseen = batch(config, 200)
    before = trainer.loss(unseen).item()
    for _ in range(20):
        trainer.advance()
    assert trainer.loss(unseen).item() < before - 0.1


def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path) -> None:
    config = replace(TINY, steps=4, measure_every=2)
    whole = Trainer(config)
    steps = [m.step for m in train(whole, tmp_path / "whole.pt")]
    assert steps == [2, 4]

    measures = train(Trainer(config), tmp_path / "part.pt")
    next(measures)
    next(measures)  # the first measure's checkpoint is written when the next one is asked for
    del measures
    resumed = Trainer(config)
    resumed.load(tmp_path / "part.pt")
    assert [m.step for m in train(resumed, tmp_path / "part.pt")] == [4]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0)


def test_muons_steps_are_nearly_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 32, 32), (2, 64, 16), (2, 16, 64)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator)))
        assert 0.3 < values.min() <= values.max() < 1.4


def test_muon_takes_queries_keys_and_values_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    stacked = nn.Parameter(torch.zeros(96, 32))
    alone = [nn.Parameter(torch.zeros(32, 32)) for _ in range(3)]
    stacked.grad = torch.randn(96, 32, generator=generator)
    for parameter, gradient in zip(alone, stacked.grad.chunk(3), strict=True):
        parameter.grad = gradient.clone()
    Muon([stacked], lr=0.1).step()
    Muon(alone, lr=0.1).step()
    torch.testing.assert_close(stacked.data, torch.cat([p.data for p in alone]))


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    Trainer(TINY).save(tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match="another config"):
        Trainer(replace(TINY, seed=1)).load(tmp_path / "checkpoint.pt")


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build(1)
    assert torch.equal(before, torch.random.get_rng_state())


# --- what ships -------------------------------------------------------------------------------


def test_shipped_weights_belong_to_this_code() -> None:
    record = load_record()
    assert record.curve[-1]["step"] == record.config.steps  # of a finished run
    assert recipe(record.config) == record.recipe
    assert record.parameters == sum(p.numel() for p in load_weights().parameters())
    assert (SHIPPED / "weights.safetensors").stat().st_size <= 10e6


def test_shipped_weights_are_as_good_as_their_record_says() -> None:
    record, count = load_record(), 120
    found = held_out_accuracy(load_weights(), count)
    expected = record.accuracy
    assert found.shape == pytest.approx(expected.shape, abs=0.08)
    assert found.held_out_pair == pytest.approx(expected.held_out_pair, abs=0.15)
    assert expected.held_out_pair > 10 * expected.pair_chance
    assert expected.shape > 3 * expected.shape_chance


def test_loading_gives_what_encoders_are_made_of() -> None:
    model, tokens, spec = load_shapes()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert spec.size == 96
    assert model.encode_text(tokens(["a red star"])).shape == (1, 128)


def test_absent_phrases_are_told_from_present_ones() -> None:
    """On a model and pictures that the limits were not chosen on."""
    encoder = load_encoder(ModelConfig(model="shapes", device="cpu"))
    assert encoder.common is not None
    bank = encoder.text(encoder.common)
    found: dict[bool, list[bool | None]] = {True: [], False: []}
    for index in range(60):
        scene = painted(plan("held-out", 1, index, side=SIDE))
        image = to_tensor(Image.fromarray(scene.image), (SIDE, SIDE), encoder.input)
        scores = encoder.scores(image[None], bank)
        there = {f"{thing.colour} {thing.shape}" for thing in scene.plan.things}
        for phrase, value in zip(encoder.common, contrast(scores, scores)[0], strict=True):
            found[phrase in there].append(verdict(float(value)))
    present, absent = found[True], found[False]
    assert present.count(True) > 0.9 * len(present)
    assert present.count(False) < 0.02 * len(present)
    assert absent.count(False) > 0.5 * len(absent)
    assert absent.count(True) < 0.25 * len(absent)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no record\.json"):
        load_weights(tmp_path)
    save_weights(build(), tmp_path)
    record = json.loads((SHIPPED / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(ScalecliError, match="is not the recorded"):
        load_shapes(tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(ScalecliError, match="damaged"):
        load_shapes(tmp_path)
