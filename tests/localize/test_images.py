"""Pictures of every kind a folder may hold, and files that are none."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scalecli.core.errors import UsageError
from scalecli.localize import images
from scalecli.localize.encoder import InputSpec


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """Red grows to the right, green downwards."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, axis=0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, axis=1)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 60)], axis=2).astype(np.uint8))


def close(image: Image.Image, wanted: Image.Image, tolerance: float = 6.0) -> bool:
    first, second = (np.asarray(i, dtype=float) for i in (image, wanted))
    return first.shape == second.shape and bool(np.abs(first - second).mean() <= tolerance)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_formats_agree(form: str) -> None:
    assert close(images.decode(encoded(gradient(), form)).image, gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    upright = gradient()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpositions that a camera made
    turned = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = images.decode(encoded(turned, "JPEG", exif=exif, quality=95))
    assert photo.size == upright.size
    assert close(photo.image, upright)


def test_sixteen_bit_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, axis=0)
    grey = np.asarray(images.decode(encoded(Image.fromarray(ramp))).image)
    assert grey.min() == 0
    assert grey.max() == 255
    assert np.abs(grey[0, :, 0].astype(float) - ramp[0] / 257).max() <= 0.5


def test_float_tiff_with_nan_is_drawn() -> None:
    values = np.array([[0.0, np.nan], [0.5, 1.0]], dtype=np.float32)
    grey = np.asarray(images.decode(encoded(Image.fromarray(values), "TIFF")).image)[..., 0]
    assert grey.tolist() == [[0, 0], [128, 255]]


def test_cmyk_and_palette_with_alpha() -> None:
    assert close(images.decode(encoded(gradient().convert("CMYK"), "JPEG")).image, gradient(), 12)
    palette = Image.new("P", (4, 2), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 1)
    photo = images.decode(encoded(palette, transparency=0))
    assert photo.image.getpixel((0, 0)) == (0, 0, 255)
    assert photo.image.getpixel((1, 1)) == (255, 255, 255)  # transparent red is white


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert images.decode(data).image.getpixel((3, 3)) == (0, 255, 0)


def jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    return encoded(Image.fromarray(noise), "JPEG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (jpeg()[:2000], "cut short"),
        (b"just some text", "not a picture"),
        (encoded(gradient())[:60], "cut short"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "not a picture"),
    ],
)
def test_damage_is_one_line(data: bytes, message: str) -> None:
    with pytest.raises(images.ImageError, match=message) as caught:
        images.decode(data)
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_decoding() -> None:
    """A PNG of a few bytes whose header promises 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    with pytest.raises(images.ImageError, match="60000×60000 pixels"):
        images.decode(bomb)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_mutated_files_are_pictures_or_one_line(
    form: str, changes: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(encoded(gradient(), form))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    try:
        photo = images.decode(bytes(data[: max(1, int(keep * len(data)))]))
    except images.ImageError as refused:
        assert "\n" not in str(refused)  # noqa: PT017
    else:
        assert photo.image.mode == "RGB"


def test_files_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, message in [
        ("empty.jpg", "empty"),
        ("pipe.jpg", "not a file"),
        ("no.jpg", "No such"),
    ]:
        with pytest.raises(images.ImageError, match=message):
            images.read(tmp_path / name)


def test_draft_is_never_below_what_is_asked() -> None:
    data = encoded(gradient(1600, 1200), "JPEG", quality=95)
    photo = images.decode(data, enough=images.Enough(long=500, short=224))
    assert photo.size == (1600, 1200)
    assert 500 <= max(photo.image.size) < 1600
    assert min(photo.image.size) >= 224
    assert close(photo.image, gradient(*photo.image.size))
    assert images.decode(data).image.size == (1600, 1200)


@pytest.mark.parametrize(
    ("text", "size", "wanted"),
    [
        ("224", (640, 480), (224, 304)),
        ("224", (480, 640), (304, 224)),
        ("200", (300, 300), (192, 192)),
        ("336x448", (10, 999), (336, 448)),
        ("224", (20_000, 10), (224, 1344)),
        ("224", (10, 20_000), (1344, 224)),
        ("1", (1, 1), (16, 16)),
    ],
)
def test_sizes(text: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert images.parse_size(text).fit(*size, (16, 16)) == wanted


@given(st.integers(1, 4096), st.integers(1, 20_000), st.integers(1, 20_000))
@settings(max_examples=200, deadline=None)
def test_any_picture_fits_the_grid_and_a_bound(side: int, width: int, height: int) -> None:
    h, w = images.Size(short=side).fit(width, height, (14, 14))
    assert h % 14 == w % 14 == 0
    assert min(h, w) >= 14
    assert max(h, w) <= (side + 14) * images.MAX_ASPECT + 14


@pytest.mark.parametrize("text", ["", "0", "224x", "x224", "-5", "9999", "12x0", "ten", "1e3"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="--size"):
        images.parse_size(text)


def test_tensor_is_what_torchvision_makes() -> None:
    from torchvision.transforms import functional

    spec = InputSpec((0.48, 0.46, 0.41), (0.27, 0.26, 0.28), 24)
    ours = images.to_tensor(gradient(), (24, 32), spec)
    bicubic = functional.InterpolationMode.BICUBIC
    resized = functional.resize(gradient(), [24, 32], interpolation=bicubic, antialias=True)
    theirs = functional.normalize(functional.to_tensor(resized), spec.mean, spec.std)
    assert ours.shape == (3, 24, 32)
    assert float((ours - theirs).abs().max()) < 1e-5


def test_masks(tmp_path: Path) -> None:
    inside = np.zeros((30, 40), dtype=np.uint8)
    inside[5:9, 10:20] = 3
    grey, palette = Image.fromarray(inside), Image.fromarray(inside).convert("P")
    palette.putdata(inside.ravel().tolist())
    for number, mask in enumerate([grey, palette, grey.convert("RGB")]):
        mask.save(path := tmp_path / f"{number}.png")
        assert (images.mask(path, (40, 30)) == (inside > 0)).all()
    with pytest.raises(UsageError, match="40×30, but the picture is 4×3"):
        images.mask(tmp_path / "0.png", (4, 3))
    Image.new("L", (4, 3)).save(tmp_path / "black.png")
    with pytest.raises(UsageError, match="nothing is inside"):
        images.mask(tmp_path / "black.png", (4, 3))
    with pytest.raises(UsageError, match="--mask-file"):
        images.mask(tmp_path / "none.png", (4, 3))


def test_expand(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "deep/c.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [os.path.relpath(path, tmp_path) for path in images.expand(str(tmp_path))]
    assert found == ["a.png", "b.JPG", "deep/c.webp"]
    assert images.expand(str(tmp_path / "*.png")) == [str(tmp_path / "a.png")]
    assert images.expand(str(tmp_path / "notes.txt")) == [str(tmp_path / "notes.txt")]
    (tmp_path / "nothing").mkdir()
    for word in ("nothing", "*.tif", "x.jpg"):
        with pytest.raises(UsageError, match=r"no pictures|no such image"):
            images.expand(str(tmp_path / word))
