from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest
from PIL import Image, ImageChops, ImageDraw

from scalecli.localize import lettering

FONTS = f"{matplotlib.get_data_path()}/fonts/ttf"
PLAIN = f"{FONTS}/DejaVuSans.ttf"


def test_no_installed_font_draws_everything() -> None:
    """A box is no glyph: no font has a code point that is not assigned."""
    assert not any(0x0378 in lettering._glyphs(file) for file in lettering._installed())


@pytest.fixture
def known_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fonts that matplotlib brings, whatever else is installed here."""
    monkeypatch.setattr(lettering, "_installed", lambda: (f"{FONTS}/STIXGeneral.ttf",))
    lettering._lettered.cache_clear()
    yield
    lettering._lettered.cache_clear()


@pytest.mark.usefixtures("known_fonts")
@pytest.mark.parametrize(
    ("text", "shown", "font"),
    [
        ("naïve собака σκύλος", "naïve собака σκύλος", PLAIN),
        ("a 🐕 runs", "a [dog] runs", PLAIN),
        ("\u732b", "U+732B ", PLAIN),
        ("\u732b\u3099", "U+732B ", PLAIN),
        ("\u20e4 x", "\u20e4 x", f"{FONTS}/STIXGeneral.ttf"),
    ],
)
def test_text_without_boxes(text: str, shown: str, font: str) -> None:
    found, file = lettering._lettered(text)
    assert (found, file) == (shown, font)
    assert {ord(c) for c in found if not c.isspace()} <= lettering._glyphs(file)


@pytest.mark.usefixtures("known_fonts")
def test_long_text_is_cut_to_its_room() -> None:
    page = Image.new("RGB", (400, 40), (255, 255, 255))
    lettering.write(ImageDraw.Draw(page), (5, 5), "🐕" * 5000, size=14, fill=(0, 0, 0), room=200)
    left, _, right, _ = ImageChops.invert(page).getbbox() or (0, 0, 0, 0)
    assert 0 < left < right <= 210
    assert lettering.width_of("dog" * 1000, 14) > lettering.width_of("dog", 14)


@pytest.mark.usefixtures("known_fonts")
def test_a_font_that_cannot_be_read_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_installed", lambda: ("/no/such/font.ttf",))
    assert lettering._lettered("犬")[1] == PLAIN
