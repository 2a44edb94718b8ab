"""Words sorted into pictures and prompts, and names that are safe to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalecli.core.errors import UsageError
from scalecli.localize.drawing import file_names
from scalecli.localize.job import items_of
from scalecli.localize.prompts import clean, gather, read_prompts, templates


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "c.png").touch()
    return tmp_path


def test_what_exists_is_a_picture_the_rest_are_prompts(here: Path) -> None:
    request = gather(["a.jpg", "a cat/dog", "b.jpg", "what is this?", "[x]"])
    assert request.images == ("a.jpg", "b.jpg")
    assert request.prompts == ("a cat/dog", "what is this?", "[x]")
    assert gather(["*.jpg", "cat"]).images == ("a.jpg", "b.jpg")


def test_a_folder_of_a_prompts_name_is_said(here: Path) -> None:
    request = gather(["a.jpg", "dog", "cat"])
    assert request.images == ("a.jpg", "dog/c.png")
    assert "--prompt dog" in request.notes[0]
    assert gather(["a.jpg"], prompts=["dog"]).prompts == ("dog",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["aa.jpg", "dog"], "aa.jpg: no such image"),
        (["*.png", "cat"], "no such image"),
        (["cat"], "no image: 'cat' is no file here"),
        ([], "no image"),
        (["a.jpg"], "no prompt"),
        (["a.jpg", "  "], "empty"),
        (["a.jpg", "x" * 5000], None),
        (["a.jpg", "nul\0"], None),
    ],
)
def test_mistakes(here: Path, words: list[str], message: str | None) -> None:
    if message is None:
        assert len(gather(words).prompts) == 1
        return
    with pytest.raises(UsageError) as caught:
        gather(words)
    assert message in str(caught.value)


def test_the_same_prompt_twice_is_done_once(here: Path) -> None:
    request = gather(["a.jpg", "a dog", " a  dog ", "cat"])
    assert request.prompts == ("a dog", "cat")
    assert "twice" in request.notes[0]


def test_prompt_files(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffdog\n\n# a comment\n  red, small car \r\n🐕\n".encode())
    assert read_prompts(path) == ["dog", "red, small car", "🐕"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_prompts(path)
    path.write_text("# nothing\n")
    with pytest.raises(UsageError, match="no prompt"):
        read_prompts(path)
    with pytest.raises(UsageError, match="--prompts-file"):
        read_prompts(tmp_path / "none")


def test_templates() -> None:
    assert templates("default", ()) is None
    assert templates("none", ()) == ("{}",)
    assert templates("imagenet", ("the {}",)) == ("the {}",)
    imagenet = templates("imagenet", ())
    assert imagenet is not None
    assert len(imagenet) == 80
    assert all("{}" in template for template in imagenet)
    with pytest.raises(UsageError, match=r"put \{\}"):
        templates("default", ("a photo",))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=12))
def test_file_names_are_safe_and_unique(texts: list[str]) -> None:
    try:
        prompts, _ = clean(texts)
    except UsageError:  # blank
        return
    names = file_names(prompts)
    assert len({name.casefold() for name in names}) == len(prompts)
    for name in names:
        assert name
        assert not set(name) & set("/\\.\0\n:*?")
        assert len(name.encode()) < 64


def test_folders_of_pictures_do_not_depend_on_later_pictures() -> None:
    items = {item.path: item.folder for item in items_of(["x/a.jpg", "y/A.png", "y/b.jpg"])}
    assert items["y/b.jpg"] == "b"
    assert len({folder.casefold() for folder in items.values()}) == 3
    more = {i.path: i.folder for i in items_of(["0/a.jpg", "x/a.jpg", "y/A.png", "y/b.jpg"])}
    assert all(more[path] == folder for path, folder in items.items())
    assert items_of(["x/a.jpg"])[0].folder == ""
