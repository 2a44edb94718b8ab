"""Datasets: each layout's own meaning of 0 and 255, any kind of mask file, and plain refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scalecli.core.errors import ScalecliError, UsageError
from scalecli.localize.evaluation.datasets import VOC_CLASSES, open_dataset
from scalecli.localize.evaluation.masks import IGNORE, read_indices
from scalecli.localize.evaluation.protocol import load_protocol, names, vocabulary

WIDTH, HEIGHT = 12, 8

Pixels = NDArray[Any]


def save_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path)


def save_mask(path: Path, values: Pixels, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette([(37 * i) % 256 for i in range(768)])
    image.save(path)


def mask(*values: int, dtype: type = np.uint8) -> Pixels:
    """Columns of equal width, one per value."""
    columns: Pixels = np.repeat(np.array(values, dtype=dtype), -(-WIDTH // len(values)))[:WIDTH]
    return np.tile(columns, (HEIGHT, 1))


def pairs(root: Path, classes: str, *masks: Pixels) -> str:
    for i, values in enumerate(masks):
        save_image(root / "images" / f"{i}.jpg")
        save_mask(root / "masks" / f"{i}.png", values)
    (root / "classes.txt").write_text(classes)
    return f"pairs:{root}"


def test_voc_background_is_zero_and_void_is_left_out(tmp_path: Path) -> None:
    save_image(tmp_path / "JPEGImages" / "a.jpg")
    save_image(tmp_path / "JPEGImages" / "b.jpg")
    for name in "ab":
        save_mask(tmp_path / f"SegmentationClass/{name}.png", mask(0, 1, 20, 255), palette=True)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("b\n")
    found = open_dataset(f"voc:{tmp_path}")
    assert [item.name for item in found.items] == ["b"]
    assert found.background
    assert found.classes == VOC_CLASSES
    sample = found.items[0].read()
    assert sample.image.size == (WIDTH, HEIGHT)
    assert set(np.unique(sample.labels)) == {IGNORE, 0, 1, 20}


def test_ade_zero_is_left_out(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "validation" / "a.jpg")
    save_mask(tmp_path / "annotations" / "validation" / "a.png", mask(0, 1, 3))
    lines = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.1\t1\t1\twall", "2\t0.1\t1\t1\tsky, heaven"]
    (tmp_path / "objectInfo150.txt").write_text("\n".join([*lines, "3\t0\t1\t1\ttree"]) + "\n")
    found = open_dataset(f"ade20k:{tmp_path}")
    assert not found.background
    assert found.classes == ("wall", "sky, heaven", "tree")
    assert found.items[0].read().labels[0].tolist() == [IGNORE] * 4 + [1] * 4 + [3] * 4


def panoptic(root: Path, ids: Pixels, segments: list[dict[str, int]]) -> str:
    save_image(root / "images" / "7.jpg")
    wide = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    save_mask(root / "panoptic" / "7.png", wide)
    data = {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": segments}],
        "categories": [
            {"id": 1, "name": "person", "isthing": 1},
            {"id": 44, "name": "bottle", "isthing": 1},
            {"id": 199, "name": "wall-other-merged", "isthing": 0},
        ],
    }
    (root / "panoptic.json").write_text(json.dumps(data))
    return f"coco-panoptic:{root}"


def test_coco_segment_ids_become_categories(tmp_path: Path) -> None:
    ids = mask(0, 5, 70000, 300, dtype=np.int64)
    segments = [
        {"id": 5, "category_id": 44}, {"id": 70000, "category_id": 199},
        {"id": 300, "category_id": 1},
    ]  # fmt: skip
    spec = panoptic(tmp_path, ids, segments)
    whole = open_dataset(spec)
    assert whole.classes == ("person", "bottle", "wall")
    assert not whole.background
    assert whole.items[0].read().labels[0, ::3].tolist() == [IGNORE, 2, 3, 1]
    things = open_dataset(spec, things=True)
    assert things.classes == ("person", "bottle")
    assert things.background
    # Stuff is background; what nobody labelled stays out.
    assert things.items[0].read().labels[0, ::3].tolist() == [IGNORE, 2, 0, 1]


def test_pairs_with_and_without_background(tmp_path: Path) -> None:
    spec = pairs(tmp_path / "a", "background\ncat\ndog\n", mask(0, 1, 2, 255))
    found = open_dataset(spec)
    assert (found.classes, found.background) == (("cat", "dog"), True)
    assert found.items[0].read().labels[0, ::3].tolist() == [0, 1, 2, IGNORE]
    spec = pairs(tmp_path / "b", "sky\ncat, kitten\n", mask(0, 1))
    found = open_dataset(spec)
    assert (found.classes, found.background) == (("sky", "cat, kitten"), False)
    assert found.items[0].read().labels[0, ::6].tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_masks_keep_their_numbers(tmp_path: Path, dtype: type) -> None:
    values = mask(0, 1, dtype=dtype) if dtype is bool else mask(0, 200, dtype=dtype)
    if dtype is np.uint16:
        values = values * np.uint16(200)  # 40,000: lost if it were read as 8 bits
    save_mask(tmp_path / "m.png", values)
    np.testing.assert_array_equal(read_indices(tmp_path / "m.png"), values.astype(np.int32))


def test_palette_masks_are_indices_not_colours(tmp_path: Path) -> None:
    save_mask(tmp_path / "m.png", mask(0, 7, 9), palette=True)
    assert set(np.unique(read_indices(tmp_path / "m.png"))) == {0, 7, 9}


def test_grey_saved_as_rgb_is_read_and_colours_are_refused(tmp_path: Path) -> None:
    grey = np.repeat(mask(0, 3)[..., None], 3, axis=2)
    save_mask(tmp_path / "grey.png", grey)
    assert set(np.unique(read_indices(tmp_path / "grey.png"))) == {0, 3}
    grey[0, 0] = 1, 2, 3
    save_mask(tmp_path / "colour.png", grey)
    with pytest.raises(ScalecliError, match="in colours"):
        read_indices(tmp_path / "colour.png")


def spoil_size(root: Path) -> None:
    save_image(root / "images" / "0.jpg", (WIDTH + 1, HEIGHT))


def spoil_label(root: Path) -> None:
    save_mask(root / "masks" / "0.png", mask(0, 9))


def spoil_mask(root: Path) -> None:
    (root / "masks" / "0.png").write_bytes(b"\x89PNG no")


def spoil_lossy(root: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(root / "masks" / "0.png", format="JPEG")


def spoil_image(root: Path) -> None:
    (root / "images" / "0.jpg").write_bytes(b"not a picture")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_size, "12×8, but its image 0.jpg is 13×8"),
        (spoil_label, "label 9 is outside the class list"),
        (spoil_mask, "not a readable mask"),
        (spoil_lossy, "JPEG mask loses class numbers"),
        (spoil_image, "not a picture"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spec = pairs(tmp_path, "background\ncat\n", mask(0, 1))
    spoil(tmp_path)
    item = open_dataset(spec).items[0]
    with pytest.raises(ScalecliError, match=message) as caught:
        item.read()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def no_mask(root: Path) -> None:
    (root / "masks" / "0.png").unlink()


def no_classes(root: Path) -> None:
    (root / "classes.txt").unlink()


def empty_class(root: Path) -> None:
    (root / "classes.txt").write_text("background\n\ncat\n")


def same_class(root: Path) -> None:
    (root / "classes.txt").write_text("cat\ncat\n")


def late_background(root: Path) -> None:
    (root / "classes.txt").write_text("cat\nbackground\n")


def no_images(root: Path) -> None:
    (root / "images" / "0.jpg").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_mask, "the mask is not there"),
        (no_classes, "is not there"),
        (empty_class, "line 2 names no class"),
        (same_class, "there twice"),
        (late_background, "must be the first line"),
        (no_images, "no images"),
    ],
)
def test_bad_folders_are_refused_before_any_work(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spec = pairs(tmp_path, "background\ncat\n", mask(0, 1))
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message):
        open_dataset(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vocc:x", "did you mean 'voc'"),
        ("voc", "name its folder"),
        ("voc:/nowhere", "no such folder"),
        ("shapes:x", "shapes are generated"),
        ("voc:.", "not PASCAL VOC"),
        ("ade20k:.", "not ADE20K"),
        ("coco-panoptic:.", "not COCO panoptic"),
    ],
)
def test_bad_names(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        open_dataset(spec)


def test_unknown_segment_and_category(tmp_path: Path) -> None:
    ids = mask(5, 6, dtype=np.int64)
    spec = panoptic(tmp_path, ids, [{"id": 5, "category_id": 1}])
    with pytest.raises(ScalecliError, match="segment 6"):
        open_dataset(spec).items[0].read()
    with pytest.raises(UsageError, match="category 77"):
        open_dataset(panoptic(tmp_path, ids, [{"id": 5, "category_id": 77}]))


def test_a_changed_file_changes_the_stamp(tmp_path: Path) -> None:
    spec = pairs(tmp_path, "background\ncat\n", mask(0, 1))
    before = open_dataset(spec).items[0].stamp
    assert before == open_dataset(spec).items[0].stamp
    save_mask(tmp_path / "masks" / "0.png", mask(1, 0, 1, 0))
    assert before != open_dataset(spec).items[0].stamp


def test_shapes_are_the_same_scenes_each_time() -> None:
    first, again = (open_dataset("shapes", limit=3).items[2].read() for _ in range(2))
    np.testing.assert_array_equal(np.asarray(first.image), np.asarray(again.image))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.labels.max() > 0


@pytest.mark.parametrize("name", names())
def test_shipped_protocols_load(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.about
    assert protocol.sentences() is None or all("{}" in t for t in protocol.sentences() or ())


def test_protocols_are_those_of_the_literature() -> None:
    voc20, voc21 = load_protocol("voc20"), load_protocol("voc21")
    assert voc20.classes == voc21.classes
    assert len(voc20.classes) == len(VOC_CLASSES)
    assert (voc20.background, voc21.background) == ("ignore", "class")
    assert (voc21.threshold, voc21.logit_scale, len(voc21.background_words)) == (0.1, 65, 26)
    assert len(load_protocol("ade150").classes) == 150
    assert len(load_protocol("coco-object").classes) == 80
    assert len(voc20.sentences() or ()) == 80
    words = vocabulary(voc21, VOC_CLASSES, background=True)
    assert len(words.classes) == 21
    assert words.owner.count(0) == 26
    assert words.words[words.owner.index(15)] == "person"
    assert words.groups()[0] == (0, slice(0, 26))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("voc2", (), "did you mean"),
        ("voc20", ("treshold=1",), "--change unknown key 'treshold'; did you mean 'threshold'"),
        ("voc20", ("threshold=0.5",), "background: class"),
        ("voc21", ("threshold=1.5",), "too large"),
        ("voc20", ("stride=300",), "leave gaps"),
        ("voc20", ("size=100",), "size ≥ it"),
        ("pairs", ("resize=short",), "needs a side"),
        ("no/such.yaml", (), "no such protocol"),
    ],
)
def test_bad_protocols(name: str, changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_protocol(name, changes)


def test_protocol_and_dataset_must_fit() -> None:
    with pytest.raises(UsageError, match="names 20 classes, the dataset has 2"):
        vocabulary(load_protocol("voc20"), ("a", "b"), background=True)
    with pytest.raises(UsageError, match="background class"):
        vocabulary(load_protocol("gem"), ("a", "b"), background=False)
