"""From pictures to rows and files: the whole job on a small random encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scalecli.core.errors import UsageError
from scalecli.localize.config import LocalizeConfig
from scalecli.localize.drawing import Painter
from scalecli.localize.job import Done, Worker, items_of, stream
from scalecli.localize.localizer import Broken, Localizer, Skipped
from tests.localize.tiny import tiny_encoder

PROMPTS = ("dog", "a cat")


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, size in enumerate([(64, 48), (48, 64), (64, 48), (90, 30), (64, 48)]):
        coarse = Image.fromarray(generator.integers(0, 255, (4, 5, 3)).astype(np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return [str(path) for path in sorted(folder.iterdir())]


def worker(out: Path, prompts: Sequence[str] = PROMPTS, **given: Any) -> Worker:
    config = dataclasses.replace(LocalizeConfig(), **{"max_side": 320, "overlay": False, **given})
    localizer = Localizer(config, tiny_encoder(), prompts)
    return Worker(localizer, Painter(config, prompts, model="tiny", out=out, origin={}))


def without_time(done: Done) -> list[object]:
    return [dataclasses.replace(row, seconds=0.0) for row in done.rows]


def test_threads_and_batches_change_nothing(tmp_path: Path, photos: list[str]) -> None:
    job = worker(tmp_path / "out", method=("gem", "gradcam"))
    items = items_of(photos)
    alone = [job.process(item) for item in items]
    for threads, batch in [(1, 1), (3, 1), (2, 3)]:
        together = list(stream(job, items, threads=threads, batch=batch))
        assert [outcome.item for outcome in together] == items
        for one, other in zip(alone, together, strict=True):
            assert isinstance(one, Done)
            assert isinstance(other, Done)
            assert one.key == other.key
            for a, b in zip(one.rows, other.rows, strict=True):
                assert (a.prompt, a.method, a.peak_x, a.peak_y) == (
                    b.prompt, b.method, b.peak_x, b.peak_y,
                )  # fmt: skip
                assert a.score == pytest.approx(b.score, abs=1e-5)
                assert a.area == pytest.approx(b.area, abs=1e-3)


def test_rows_say_what_the_raw_scores_say(tmp_path: Path, photos: list[str]) -> None:
    out = tmp_path / "out"
    job = worker(out, method=("patch-text",), raw=True, size="40x48")
    outcome = job.process(items_of(photos[:1])[0])
    assert isinstance(outcome, Done)
    with np.load(out / "patch-text.npz") as saved:
        scores = saved["scores"]
        assert saved["prompts"].tolist() == list(PROMPTS)
        assert str(saved["method"]) == "patch-text"
    assert scores.dtype == np.float32
    assert scores.shape == (2, 5, 6)
    assert np.abs(scores).max() <= 1  # cosines
    for row, own in zip(outcome.rows, scores, strict=True):
        assert row.peak == own.max() == row.high
        assert row.low == own.min()
        y, x = np.unravel_index(own.argmax(), own.shape)
        assert (row.peak_x, row.peak_y) == (int((x + 0.5) * 64 / 6), int((y + 0.5) * 48 / 5))
        assert (row.width, row.height, row.grid_h, row.grid_w) == (64, 48, 5, 6)
        assert "patch-text.npz" in row.files


def test_every_file_named_is_there_and_none_else(tmp_path: Path, photos: list[str]) -> None:
    out = tmp_path / "out"
    job = worker(
        out, ("segment", "layers", "🐕/.."), method=("gem", "attention-vv"), overlay=True,
        heatmap=True, mask=True, boxes=True, segment=True, raw=True, through_layers=True,
        compare=True, threshold="otsu",
    )  # fmt: skip
    outcomes = list(stream(job, items_of(photos[:2]), threads=2))
    named = {name for o in outcomes if isinstance(o, Done) for row in o.rows for name in row.files}
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert made - named == {"0/contact.png", "1/contact.png"}
    assert named <= made
    for name in made:
        if name.endswith(".png"):
            with Image.open(out / name) as picture:
                picture.load()


def test_what_is_on_disk_is_not_done_again(tmp_path: Path, photos: list[str]) -> None:
    job = worker(tmp_path)
    items = items_of(photos)
    keys = [o.key for o in stream(job, items) if isinstance(o, Done)]
    again = list(stream(job, items, done=set(keys[:3])))
    assert [type(o) for o in again] == [Skipped] * 3 + [Done] * 2
    Image.new("RGB", (64, 48)).save(photos[0])
    assert isinstance(job.process(items[0], set(keys)), Done)  # another content, another key


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"cmap": "magma"}, False),
        ({"method": ("gem",)}, False),
        ({"size": "48"}, False),
        ({"negative": ("sky",)}, False),
        ({"threads": 7}, True),
        ({"batch": 7}, True),
        ({"device": "cpu"}, True),
    ],
)
def test_keys_change_with_what_matters(
    tmp_path: Path, photos: list[str], change: dict[str, Any], same: bool
) -> None:
    item = items_of(photos)[0]
    first, second = (worker(tmp_path, **c).localizer.key(item, b"x") for c in ({}, change))
    assert (first == second) is same


def test_bad_files_among_good_ones(tmp_path: Path, photos: list[str]) -> None:
    Path(photos[1]).write_bytes(b"no picture")
    Path(photos[2]).write_bytes(Path(photos[2]).read_bytes()[:200])
    outcomes = list(stream(worker(tmp_path / "out"), items_of(photos), threads=2))
    assert [type(o) for o in outcomes] == [Done, Broken, Broken, Done, Done]


def test_a_hundred_prompts_are_those_prompts_one_by_one(tmp_path: Path, photos: list[str]) -> None:
    many = [f"thing {i}" for i in range(20)]
    item = items_of(photos)[0]
    together = worker(tmp_path, many, method=("gem",)).process(item)
    assert isinstance(together, Done)
    for i in (0, 7, 19):
        alone = worker(tmp_path, [many[i]], method=("gem",)).process(item)
        assert isinstance(alone, Done)
        assert alone.rows[0].peak == pytest.approx(together.rows[i].peak, abs=1e-5)
        assert alone.rows[0].contrast == pytest.approx(together.rows[i].contrast, abs=1e-4)


def test_negative_texts_are_subtracted(tmp_path: Path, photos: list[str]) -> None:
    item = items_of(photos)[0]
    own = worker(tmp_path, ("dog",), negative=("dog",)).process(item)
    assert isinstance(own, Done)
    assert own.rows[0].peak == pytest.approx(0, abs=1e-6)
    assert own.rows[0].area == 0  # flat: nothing is there
    out = tmp_path / "raw"
    worker(out, ("dog",), negative=("sky", "sea"), raw=True, method=("gem",)).process(item)
    with np.load(out / "0" / "gem.npz") as saved:
        assert saved["scores"].shape[0] == 1
        assert saved["negative_scores"].shape[0] == 2


def test_absolute_range_is_shared_and_reaches_common_words(
    tmp_path: Path, photos: list[str]
) -> None:
    item = items_of(photos)[0]
    done = worker(tmp_path, absolute=True).process(item)
    assert isinstance(done, Done)
    first, second = done.rows
    assert (first.low, first.high) == (second.low, second.high)
    assert first.high >= max(first.peak, second.peak)
    plain = worker(tmp_path).process(item)
    assert isinstance(plain, Done)
    assert plain.rows[0].high == plain.rows[0].peak


def test_a_mask_gives_agreement(tmp_path: Path, photos: list[str]) -> None:
    inside = np.zeros((48, 64), dtype=np.uint8)
    inside[:24] = 255
    Image.fromarray(inside).save(mask := tmp_path / "mask.png")
    done = worker(tmp_path, mask_file=mask, method=("gem", "patch-text")).process(
        items_of(photos)[0]
    )
    assert isinstance(done, Done)
    for row in done.rows:
        assert row.hit is (row.peak_y < 24)
        assert row.inside_minus_outside is not None
        assert -1 <= row.inside_minus_outside <= 1


def test_through_layers_ends_with_the_method_itself(tmp_path: Path, photos: list[str]) -> None:
    job = worker(tmp_path, method=("patch-text",), through_layers=True)
    picture = job.localizer.read(items_of(photos)[0])
    seen = job.localizer.look([picture])[0]  # type: ignore[list-item]
    found = seen.found["patch-text"]
    assert len(found.stages) == 8
    assert np.allclose(found.stages[-1][1], found.raw, atol=1e-5)


def test_options_reach_the_methods_that_have_them(tmp_path: Path) -> None:
    job = worker(
        tmp_path, method=("gem", "self-self", "patch-text"), blocks=3,
        method_options=("iterations=2", "temperature=5.5"),
    )  # fmt: skip
    assert job.localizer.options == {
        "gem": {"blocks": 3, "iterations": 2, "temperature": 5.5},
        "self-self": {"iterations": 2, "temperature": 5.5},
        "patch-text": {},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": ("gme",)}, "did you mean 'gem'"),
        ({"method": ("gem",), "method_options": ("iterationz=2",)}, "did you mean 'iterations'"),
        ({"method": ("gem",), "method_options": ("iterations=two",)}, "whole number"),
        ({"method": ("patch-text",), "blocks": 3}, "'blocks' is no option of patch-text"),
        ({"method": ("clip-surgery",), "method_options": ("empty=1",)}, "'empty' is no option"),
        ({"template": ("a photo",)}, "put {}"),
        ({"negative": (" ",)}, "empty"),
    ],
)
def test_wrong_requests(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        worker(tmp_path, **given)
    assert message in str(caught.value)


def test_long_prompts_are_said_to_be_cut(tmp_path: Path) -> None:
    job = worker(tmp_path, ("short", "long " * 1000))
    assert len(job.localizer.notes) == 1
    assert "only the beginning" in job.localizer.notes[0]


def test_the_model_is_left_as_it_was(tmp_path: Path, photos: list[str]) -> None:
    job = worker(tmp_path, method=("all",), through_layers=False)
    visual = job.localizer.encoder.subject.visual  # type: ignore[attr-defined]
    before = {name: tensor.clone() for name, tensor in visual.state_dict().items()}
    job.process(items_of(photos)[0])
    for name, tensor in visual.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_methods_that_cannot_be_followed_are_named_or_left_out(
    tmp_path: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "scalecli.localize.localizer.can_follow", lambda _, m: "cosine of every" in m.about
    )
    with pytest.raises(UsageError, match=r"gem cannot be followed.*these can: patch-text"):
        worker(tmp_path, method=("gem",), through_layers=True)
    job = worker(tmp_path, method=("all",), through_layers=True)
    assert job.localizer.followed == ("patch-text",)
    done = job.process(items_of(photos[:1])[0])
    assert isinstance(done, Done)
    for row in done.rows:
        assert any(".layers." in name for name in row.files) is (row.method == "patch-text")
