"""Datasets: generated shapes, and folders as PASCAL VOC, ADE20K, COCO panoptic or plain pairs.

``--dataset KIND:FOLDER``. Listing a dataset reads its lists and checks that every file is there;
pictures and masks are read one by one, when they are scored.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalecli.core.errors import ScalecliError, UsageError, did_you_mean
from scalecli.localize.evaluation.masks import (
    IGNORE,
    Labels,
    read_indices,
    read_panoptic,
    relabel,
)
from scalecli.localize.evaluation.protocol import DEFAULT_PROTOCOL
from scalecli.localize.images import SUFFIXES, ImageError, decode, read

BACKGROUND = "background"
"""The class name that means: none of the others."""

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv monitor",
)  # fmt: skip
SHAPES_SIDE = 96
SHAPES_SCENES = 200
"""Generated scenes unless ``--limit`` says otherwise."""


@dataclass(frozen=True)
class Sample:
    """One decoded image with its truth."""

    image: Image.Image
    """RGB."""
    labels: Labels
    """[H, W]: 0 is background and c + 1 class c; :data:`IGNORE` is not scored."""


@dataclass(frozen=True)
class Item:
    """One image of a dataset, not yet read."""

    name: str
    """Unique within the dataset, for rows and captions."""
    stamp: tuple[object, ...]
    """What its content depends on: sizes and times of its files, or the seed of a scene."""
    read: Callable[[], Sample]
    """Raises ScalecliError naming the file that is damaged or does not fit."""


@dataclass(frozen=True)
class Dataset:
    """Images, masks and class names."""

    name: str
    """For titles: kind and folder name."""
    classes: tuple[str, ...]
    """Without the background."""
    background: bool
    """Whether label 0 occurs: pixels known to be none of the classes."""
    items: tuple[Item, ...]


def open_dataset(
    spec: str, *, limit: int | None = None, split: str | None = None, seed: int = 0,
    things: bool = False,
) -> Dataset:  # fmt: skip
    """The dataset named on the command line.

    Args:
        spec: ``shapes`` or ``KIND:FOLDER`` (see :data:`DEFAULT_PROTOCOL`).
        limit: at most this many images, in the dataset's order.
        split: list or folder of images; by default the validation one.
        seed: of generated scenes.
        things: COCO panoptic: stuff is background.

    Raises:
        UsageError: unknown kind, a folder without the expected layout, a missing mask.
    """
    kind, colon, folder = spec.partition(":")
    if kind not in DEFAULT_PROTOCOL:
        raise UsageError(f"--dataset {spec}: {did_you_mean(kind, DEFAULT_PROTOCOL)}")
    if kind == "shapes":
        if folder:
            raise UsageError(f"--dataset {spec}: shapes are generated; write --dataset shapes")
        return _shapes(limit or SHAPES_SCENES, split or "held-out", seed)
    root = Path(folder).expanduser()
    if not colon or not folder:
        raise UsageError(f"--dataset {spec}: name its folder, {kind}:FOLDER")
    if not root.is_dir():
        raise UsageError(f"--dataset {spec}: no such folder")
    if kind == "voc":
        found = _voc(root, split, limit)
    elif kind == "ade20k":
        found = _ade20k(root, split, limit)
    elif kind == "coco-panoptic":
        found = _coco_panoptic(root, split, limit, things=things)
    else:
        found = _pairs(root, limit)
    if not found.items:
        raise UsageError(f"--dataset {spec}: no images there")
    return found


def _shapes(count: int, split: str, seed: int) -> Dataset:
    from scalecli.localize.shapes import scenes

    if split not in ("train", "held-out"):
        raise UsageError(f"--split {split}: shapes has train and held-out")

    def scene(index: int) -> Sample:
        plan = scenes.plan(split, seed, index, side=SHAPES_SIDE)  # type: ignore[arg-type]
        painted = scenes.painted(plan)
        return Sample(Image.fromarray(painted.image), painted.classes.astype(np.int32))

    items = tuple(
        Item(f"scene {i}", ("shapes", split, seed, i, SHAPES_SIDE), functools.partial(scene, i))
        for i in range(count)
    )
    return Dataset(f"shapes ({split}, seed {seed})", scenes.CLASS_NAMES, True, items)


def _voc(root: Path, split: str | None, limit: int | None) -> Dataset:
    root = _inside(root, "SegmentationClass", ("VOC2012", "VOCdevkit/VOC2012"), "PASCAL VOC")
    images, masks = root / "JPEGImages", root / "SegmentationClass"
    listed = root / "ImageSets" / "Segmentation" / f"{split or 'val'}.txt"
    if listed.is_file():
        names = listed.read_text(encoding="utf-8").split()
    elif split is not None:
        raise UsageError(f"--split {split}: {listed} is not there")
    else:
        names = sorted(path.stem for path in masks.glob("*.png"))
    pairs = [(name, _picture(images, name), masks / f"{name}.png") for name in names[:limit]]
    table = np.arange(len(VOC_CLASSES) + 1, dtype=np.int32)
    return _indexed(f"PASCAL VOC ({root.name})", VOC_CLASSES, table, pairs, ignore=255)


def _ade20k(root: Path, split: str | None, limit: int | None) -> Dataset:
    root = _inside(root, "annotations", ("ADEChallengeData2016",), "ADE20K")
    part = split or ("validation" if (root / "annotations" / "validation").is_dir() else "")
    images, masks = root / "images" / part, root / "annotations" / part
    for folder in (images, masks):
        if not folder.is_dir():
            raise UsageError(f"--split {part}: {folder} is not there")
    info = root / "objectInfo150.txt"
    try:
        lines = info.read_text(encoding="utf-8").splitlines()[1:]
        names = tuple(line.split("\t")[-1].strip() for line in lines if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{info}: cannot be read; ADE20K ships its class names there") from error
    pairs = [
        (path.stem, _picture(images, path.stem), path)
        for path in sorted(masks.glob("*.png"))[:limit]
    ]
    # 0 is "not labelled", which says nothing of what is there: ADE20K's own scoring leaves it out.
    table = np.array([IGNORE, *range(1, len(names) + 1)], dtype=np.int32)
    return _indexed(f"ADE20K ({root.name})", names, table, pairs, background=False)


def _coco_panoptic(root: Path, split: str | None, limit: int | None, *, things: bool) -> Dataset:
    file, images, masks = _coco_files(root, split)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        categories = [c for c in data["categories"] if c["isthing"] or not things]
        # 0 is left for background: stuff where only things are classes.
        number = {int(c["id"]): i + 1 for i, c in enumerate(categories)}
        known = {int(c["id"]) for c in data["categories"]}
        names = {int(i["id"]): str(i["file_name"]) for i in data["images"]}
        entries = sorted(data["annotations"], key=lambda a: int(a["image_id"]))[:limit]
        planned = [
            (names[int(a["image_id"])], str(a["file_name"]), _segments(a, number, known, file))
            for a in entries
        ]
        classes = tuple(_plain(str(c["name"])) for c in categories)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not a COCO panoptic file ({error!r:.80})") from error
    items = []
    for picture, mask, segments in planned:
        paths = images / picture, masks / mask
        load = functools.partial(_read_panoptic, *paths, segments)
        items.append(Item(Path(picture).stem, _stamp(*paths), load))
    return Dataset(f"COCO panoptic ({root.name})", classes, things, tuple(items))


def _coco_files(root: Path, split: str | None) -> tuple[Path, Path, Path]:
    """The JSON, the images' and the masks' folders, in COCO's own layout or a plain one."""
    part = split or "val2017"
    own = root / "annotations" / f"panoptic_{part}.json"
    if own.is_file():
        return own, root / part, own.with_suffix("")
    plain = root / "panoptic.json"
    if plain.is_file() and split is None:
        return plain, root / "images", root / "panoptic"
    raise UsageError(
        f"{root}: not COCO panoptic; expected annotations/panoptic_{part}.json beside {part}/, "
        "or panoptic.json beside images/ and panoptic/"
    )


def _segments(
    annotation: Mapping[str, Any], number: Mapping[int, int], known: set[int], file: Path
) -> dict[int, int]:
    """Segment id → label; a crowd is a region of its class like any other."""
    found = {}
    for segment in annotation["segments_info"]:
        category = int(segment["category_id"])
        if category not in known:
            raise UsageError(f"{file}: category {category} is not among its categories")
        found[int(segment["id"])] = number.get(category, 0)
    return found


def _read_panoptic(image: Path, mask: Path, segments: Mapping[int, int]) -> Sample:
    ids = read_panoptic(mask)
    present, inverse = np.unique(ids, return_inverse=True)
    labels = np.full(len(present), IGNORE, dtype=np.int32)
    for i, segment in enumerate(present.tolist()):
        if segment == 0:  # void: nobody said what is there
            continue
        if segment not in segments:
            raise ScalecliError(f"{mask}: segment {segment} is not in the panoptic file")
        labels[i] = segments[segment]
    return _paired(image, mask, labels[inverse].reshape(ids.shape))


def _pairs(root: Path, limit: int | None) -> Dataset:
    """``images/``, ``masks/`` of the same names, and ``classes.txt``: line i names label i."""
    images, masks, listed = root / "images", root / "masks", root / "classes.txt"
    for needed in (images, masks, listed):
        if not needed.exists():
            raise UsageError(
                f"{needed}: is not there; pairs need images/, masks/ with the same file names, "
                "and classes.txt whose first line names label 0"
            )
    names = _class_list(listed)
    background = names[0] == BACKGROUND
    pictures = sorted(p for p in images.iterdir() if p.suffix.lower() in SUFFIXES)[:limit]
    pairs = [(path.name, path, _mask_of(masks, path.stem)) for path in pictures]
    # Without a background class, label 0 is the first class.
    table = np.arange(len(names), dtype=np.int32) + (0 if background else 1)
    classes = names[1:] if background else names
    return _indexed(root.name, classes, table, pairs, ignore=255, background=background)


def _class_list(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text: {error}") from error
    names = tuple(line.strip() for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    for number, name in enumerate(names):
        if not name.strip(", "):
            raise UsageError(f"{path}: line {number + 1} names no class; label {number} needs one")
        if name in names[:number]:
            raise UsageError(f"{path}: line {number + 1}: class '{name}' is there twice")
        if name == BACKGROUND and number:
            raise UsageError(f"{path}: line {number + 1}: background must be the first line")
    if not names or names == (BACKGROUND,):
        raise UsageError(f"{path}: names no class")
    return names


def _mask_of(masks: Path, stem: str) -> Path:
    for suffix in (".png", ".tif", ".tiff", ".bmp", ".gif"):
        if (path := masks / f"{stem}{suffix}").is_file():
            return path
    return masks / f"{stem}.png"  # named in the error of _stamp


def _indexed(
    name: str,
    classes: Sequence[str],
    table: Labels,
    pairs: Sequence[tuple[str, Path, Path]],
    *,
    ignore: int | None = None,
    background: bool = True,
) -> Dataset:
    """A dataset of masks that hold class numbers."""

    def load(image: Path, mask: Path) -> Sample:
        return _paired(image, mask, relabel(read_indices(mask), table, mask, ignore=ignore))

    items = tuple(
        Item(key, _stamp(image, mask), functools.partial(load, image, mask))
        for key, image, mask in pairs
    )
    return Dataset(name, tuple(classes), background, items)


def _paired(image: Path, mask: Path, labels: Labels) -> Sample:
    try:
        picture = decode(read(image)).image
    except ImageError as error:
        raise ScalecliError(f"{image}: {error}") from error
    if picture.size != labels.shape[::-1]:
        raise ScalecliError(
            f"{mask}: {labels.shape[1]}×{labels.shape[0]}, but its image {image.name} is "
            f"{picture.width}×{picture.height}"
        )
    return Sample(picture, labels)


def _stamp(image: Path, mask: Path) -> tuple[object, ...]:
    """Sizes and times of both files: a changed file is scored again."""
    found: list[object] = []
    for path, kind in ((image, "image"), (mask, "mask")):
        try:
            state = os.stat(path)
        except OSError as error:
            raise UsageError(f"{path}: the {kind} is not there") from error
        found += [path.name, state.st_size, state.st_mtime_ns]
    return tuple(found)


def _picture(folder: Path, stem: str) -> Path:
    for suffix in (".jpg", ".png", ".jpeg", ".JPG", ".webp"):
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    return folder / f"{stem}.jpg"  # named in the error of _stamp


def _inside(root: Path, marker: str, inner: Sequence[str], what: str) -> Path:
    """The folder that holds ``marker``: the one named, or one of its usual children."""
    for candidate in (root, *(root / name for name in inner)):
        if (candidate / marker).is_dir():
            return candidate
    raise UsageError(f"{root}: not {what}; there is no {marker}/ in it")


def _plain(name: str) -> str:
    """COCO's stuff names as words: ``wall-other-merged`` → ``wall``."""
    for ending in ("-merged", "-other", "-stuff"):
        name = name.removesuffix(ending)
    return name.replace("-", " ")
