"""Text on pictures, in any script: from a font that has its characters, or spelled out.

Pillow does not look for glyphs in other fonts, and draws a box for each that is missing.
"""

from __future__ import annotations

import functools
import unicodedata

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]
LONGEST = 400
"""Characters of a text that are looked at: no more fit on a line, and measuring is not free."""


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    *,
    size: int,
    fill: Colour,
    room: int,
) -> None:
    """One line of text, cut with … where it would leave its room (pixels)."""
    shown, file = _lettered(text[:LONGEST])
    fitting = _fit(shown, file, size, room)
    draw.text(place, fitting, fill=fill, font=_font(file, size))


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font for digits and other plain text."""
    return _font(_plain(), size)


def width_of(text: str, size: int) -> float:
    """Pixels that a line of text takes when it is written."""
    shown, file = _lettered(text[:LONGEST])
    return _font(file, size).getlength(shown)


def _fit(text: str, file: str, size: int, room: int) -> str:
    drawn = _font(file, size)
    if drawn.getlength(text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        fits = drawn.getlength(text[:middle] + "…") <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…"


@functools.lru_cache(maxsize=256)
def _lettered(text: str) -> tuple[str, str]:
    """The text as it can be drawn, and the file of the font that can.

    >>> _lettered("naïve dog")[0]
    'naïve dog'
    """
    wanted = {ord(c) for c in text if not c.isspace()}
    plain = _plain()
    if wanted <= _glyphs(plain):
        return text, plain
    for file in _installed():
        if wanted <= _glyphs(file) and _opens(file):
            return text, file
    return "".join(_spelled(c, _glyphs(plain)) for c in text), plain


def _spelled(character: str, glyphs: frozenset[int]) -> str:
    """What stands for a character without a glyph: a symbol's name, a letter's code."""
    if ord(character) in glyphs or character.isspace():
        return character
    kind = unicodedata.category(character)
    if kind in ("So", "Sk"):
        return f"[{unicodedata.name(character, 'symbol').lower()}]"
    # Joiners and variation selectors are never seen by themselves.
    return "" if kind in ("Cf", "Mn", "Cc") else f"U+{ord(character):04X} "


@functools.cache
def _plain() -> str:
    """DejaVu Sans, which matplotlib brings: Latin, Greek, Cyrillic, Arabic and many symbols."""
    import matplotlib

    return f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@functools.cache
def _installed() -> tuple[str, ...]:
    """Upright fonts of usual weight on this machine; "Last Resort" draws boxes for everything."""
    from matplotlib.font_manager import fontManager

    return tuple(
        entry.fname
        for entry in fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular", "book")
        and "last resort" not in entry.name.casefold()
    )


@functools.cache
def _glyphs(file: str) -> frozenset[int]:
    """Code points a font can draw."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # gone, or of a kind that FreeType leaves to others
        return frozenset()


def _opens(file: str) -> bool:
    """Whether pillow can draw with it at any size; bitmap fonts have sizes of their own."""
    try:
        ImageFont.truetype(file, 20)
    except OSError:
        return False
    return True


@functools.lru_cache(maxsize=64)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype(file, size)
    except OSError:  # a stripped matplotlib
        return ImageFont.load_default(size)
