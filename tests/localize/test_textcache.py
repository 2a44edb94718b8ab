from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scalecli.localize import textcache
from scalecli.localize.textcache import CachedText, cache_folder


class Counting:
    """Sentences to vectors, remembering what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        self.asked += sentences
        return torch.tensor([[float(len(s)), float(sum(map(ord, s))) / 7] for s in sentences])


def test_each_sentence_is_encoded_once_in_a_lifetime(tmp_path: Path) -> None:
    sentences = ["a dog", "a cat", "a dog", "", "hund \udc80 🐕", "x" * 5000]
    expected = Counting()(sentences)
    first, second = Counting(), Counting()
    assert torch.equal(CachedText(first, "f", tmp_path)(sentences), expected)
    assert first.asked == list(dict.fromkeys(sentences))
    again = CachedText(second, "f", tmp_path)
    assert torch.equal(again([*reversed(sentences), "new"])[:-1], expected.flip(0))
    assert second.asked == ["new"]


def test_other_weights_have_other_vectors(tmp_path: Path) -> None:
    CachedText(Counting(), "one", tmp_path)(["a dog"])
    other = Counting()
    CachedText(other, "two", tmp_path)(["a dog"])
    assert other.asked == ["a dog"]


@pytest.mark.parametrize("harm", ["file in place of folder", "garbage", "locked", "other table"])
def test_a_broken_cache_does_no_harm(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "cache"
    lock: sqlite3.Connection | None = None
    if harm == "file in place of folder":
        folder.touch()
    else:
        folder.mkdir()
        file = folder / "texts.sqlite"
        if harm == "garbage":
            file.write_bytes(b"no database at all, but long enough to look like one" * 100)
        else:
            lock = sqlite3.connect(file)
            lock.execute("CREATE TABLE texts (something INTEGER)")
            lock.commit()
            if harm == "locked":
                lock.execute("BEGIN EXCLUSIVE")
    counting = Counting()
    cached = CachedText(counting, "f", folder)
    assert torch.equal(cached(["a", "bb"]), Counting()(["a", "bb"]))
    assert counting.asked == ["a", "bb"]
    if lock is not None:
        lock.close()


def test_a_cache_that_grew_too_large_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CachedText(Counting(), "f", tmp_path)(["a"])
    monkeypatch.setattr(textcache, "LARGEST", 10)
    counting = Counting()
    CachedText(counting, "f", tmp_path)(["a"])
    assert counting.asked == ["a"]


def test_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "scalecli"
    assert CachedText(Counting(), "f").file == tmp_path / "scalecli" / "texts.sqlite"
