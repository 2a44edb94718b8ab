from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalecli.core.config import from_mapping, make, option, parse, section, to_dict
from scalecli.core.errors import UsageError


@dataclass(frozen=True)
class Inner:
    seed: int = option(3, "Seed.", low=0)
    share: float = option(0.5, "Share.", above=0, high=1)


@dataclass(frozen=True)
class Outer:
    sizes: tuple[int, ...] = option((100, 1000), "Sizes.", low=1)
    names: tuple[str, ...] = option(("knn5",), "Names.", choices=lambda: ["knn1", "knn5"])
    noise: float = option(0.2, "Noise.", low=0, high=0.5)
    repeats: int = option(10, "Repeats.", low=0)
    quick: bool = option(True, "Quick.")
    title: str = option("title", "Title.")
    score: Literal["density", "grid"] = option("density", "Where.")
    target: str | None = option("label", "Target.")
    out: Path = option(Path("out"), "Folder.")
    table: dict[str, int] = option(None, "Numbers.")
    inner: Inner = section(Inner)


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def failing(**given: object) -> str:
    with pytest.raises(UsageError) as caught:
        make(Outer, given=given)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults_then_file_then_set_then_flags(tmp_path: Path) -> None:
    file = written(tmp_path, "noise: 0.1\nrepeats: 5\ntitle: file\n")
    assert make(Outer).noise == 0.2
    assert make(Outer, file=file).noise == 0.1
    built = make(Outer, file=file, sets=["repeats=6", "noise=0.3"], given={"noise": "0.4"})
    assert (built.title, built.repeats, built.noise) == ("file", 6, 0.4)


def test_falsy_values_that_were_given_win(tmp_path: Path) -> None:
    falsy = {"noise": 0.0, "repeats": 0, "quick": False, "title": "", "target": None, "sizes": ()}
    file = written(tmp_path, "noise: 0.1\nrepeats: 5\nquick: yes\ntitle: file\ntarget: x\n")
    built = make(Outer, file=file, given=falsy)
    assert {name: getattr(built, name) for name in falsy} == falsy
    lines = "noise: 0\nrepeats: 0\nquick: false\ntitle: ''\ntarget: null\nsizes: []\n"
    built = make(Outer, file=written(tmp_path, lines))
    assert {name: getattr(built, name) for name in falsy} == falsy


def test_unknown_key_names_the_closest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown key 'nois'; did you mean 'noise'\?"):
        make(Outer, file=written(tmp_path, "nois: 1\n"))
    with pytest.raises(UsageError, match=r"inner\.sed|unknown key 'sed'"):
        make(Outer, sets=["inner.sed=1"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000),
        ("1k", 1000),
        ("1K", 1000),
        ("1_000", 1000),
        ("1.5k", 1500),
        ("1.005k", 1005),
        ("2M", 2_000_000),
        (" 7 ", 7),
        ("9007199254740993", 2**53 + 1),
        (1e3, 1000),
    ],
)
def test_whole_numbers(text: object, value: int) -> None:
    parsed = parse(int, text, "--n")
    assert parsed == value
    assert type(parsed) is int


@pytest.mark.parametrize(
    "bad", ["1e3x", "", "k", "1.5", "nan", "inf", "1e999", True, None, [1], {}]
)
def test_not_whole_numbers(bad: object) -> None:
    with pytest.raises(UsageError, match="--n: expected a whole number such as 1000, 1e3 or 1k"):
        parse(int, bad, "--n")


@pytest.mark.parametrize("kind", [int, float])
def test_numbers_beyond_any_machine(kind: type) -> None:
    with pytest.raises(UsageError, match="--n: expected a"):
        parse(kind, 10**400, "--n")


def test_ranges_name_the_flag() -> None:
    assert failing(noise="0.6") == "--noise: 0.6 is too large; the most is 0.5"
    assert failing(sizes="100,0") == "--sizes: 0 is too small; the least is 1"
    with pytest.raises(UsageError, match=r"inner\.share: 0 must be greater than 0"):
        make(Outer, sets=["inner.share=0"])


def test_nested_set_keeps_its_siblings(tmp_path: Path) -> None:
    file = written(tmp_path, "inner:\n  seed: 8\n")
    assert make(Outer, file=file, sets=["inner.share=0.25"]).inner == Inner(8, 0.25)
    with pytest.raises(UsageError, match="write key=value"):
        make(Outer, sets=["inner.share"])


def test_lists() -> None:
    assert make(Outer, given={"sizes": "1k, 10k,"}).sizes == (1000, 10000)
    assert make(Outer, given={"sizes": [1, "2k"]}).sizes == (1, 2000)
    assert make(Outer, given={"sizes": 5}).sizes == (5,)
    assert "the list is empty" in failing(sizes=" , ")


def test_names_are_suggested() -> None:
    assert failing(names="kmn5") == "--names: unknown 'kmn5'; did you mean 'knn5'?"
    assert failing(score="gird") == "--score: unknown 'gird'; did you mean 'grid'?"


def test_paths() -> None:
    assert make(Outer, given={"out": "a/b"}).out == Path("a/b")
    assert "no such home folder" in failing(out="~nobody-by-this-name/x")
    assert "expected a path" in failing(out=None)


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "\tx", "- 1", "hello", "!!bool x", "!!timestamp x", "!!int ''"]
)
def test_bad_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        make(Outer, file=file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in (tmp_path / "binary.yaml", tmp_path / "none.yaml", Path("x" * 5000), Path("/")):
        with pytest.raises(UsageError):
            make(Outer, file=name)


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert make(Outer, file=written(tmp_path, "# nothing\n")) == make(Outer)


def test_round_trip() -> None:
    config = make(Outer, given={"sizes": "7", "table": {"a": 1}}, sets=["inner.seed=9"])
    assert from_mapping(Outer, to_dict(config)) == config


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**400)
    | st.floats()
    | st.text()
    | st.dates()
    | st.sampled_from(["1e3x", "1k", "1e9999", "~x", "none", "a,,b", "-", ".", "_1", "1_"])
)
VALUES = st.recursive(
    SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(SCALARS, x, max_size=3)
)
KEYS = st.sampled_from([*Outer.__dataclass_fields__, "nois", ""])


@given(st.dictionaries(KEYS, VALUES | st.fixed_dictionaries({"seed": VALUES}), max_size=4))
def test_any_data_is_a_config_or_a_usage_error(data: dict[str, Any]) -> None:
    try:
        config = from_mapping(Outer, data)
    except UsageError:
        return
    assert isinstance(config, Outer)
    assert isinstance(config.inner, Inner)


@given(st.text())
def test_any_set_text_is_a_config_or_a_usage_error(text: str) -> None:
    for sets in ([text], [f"title={text}"], [f"inner.seed={text}"]):
        try:
            make(Outer, sets=sets)
        except UsageError:
            continue
