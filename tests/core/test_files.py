from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalecli.core.errors import ScalecliError
from scalecli.core.files import atomic_path, slug, write_text


def test_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_success_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "one")
    write_text(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_gone_after_the_next_write(tmp_path: Path) -> None:
    path, longer = tmp_path / "a.txt", tmp_path / "a.b.txt"
    left: list[Path] = []
    for target in (path, longer):
        with atomic_path(target) as temporary:
            temporary.write_text("whole")
        temporary.write_text("half")  # as if the process had not come to its end
        left.append(temporary)
    write_text(path, "new")
    assert sorted(tmp_path.iterdir()) == sorted([path, longer, left[1]])
    write_text(longer, "new")
    assert sorted(tmp_path.iterdir()) == sorted([path, longer])


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_unwritable_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ScalecliError, match="cannot write"):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ScalecliError, match="cannot write"):
        write_text(tmp_path / "folder", "x")


@given(st.text(st.characters()), st.integers(min_value=1, max_value=60))
def test_slug_is_always_a_file_name(text: str, limit: int) -> None:
    name = slug(text, limit=limit)
    assert name
    assert len(name.encode()) <= limit
    assert not set(name) & {"/", "\\", "\0", os.sep, "."}
    assert not name.startswith(("-", "_"))
    assert slug(name, limit=limit) == name


def test_slug_keeps_letters_of_any_language() -> None:
    assert slug("a photo/of ../a dog") == "a-photo-of-a-dog"
    assert slug("猫 の 写真") == "猫-の-写真"
    assert slug("...") == "x"
