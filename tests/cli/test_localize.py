"""`scalecli localize` as a user meets it, on a small random encoder; real processes for errors."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalecli.cli import localize as command
from scalecli.cli.main import main
from tests.localize.tiny import tiny_encoder


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Call]:
    """Runs a command line in this process, with the small encoder in place of any model."""
    monkeypatch.setattr("scalecli.localize.load.load_encoder", lambda _config: tiny_encoder())
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["scalecli", "localize", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        found = capfd.readouterr()
        return Answer(int(caught.value.code or 0), found.out, found.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return paint(tmp_path / "photo.jpg", 0)


def paint(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> Path:
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def pixels(path: Path | str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_plainest_call_works(call: Call, photo: Path) -> None:
    answer = call("photo.jpg", "dog", "a red car")
    assert answer.code == 0, answer.err
    first, header = answer.out.splitlines()[:2]
    assert first.startswith("tiny: ")
    assert first.endswith("in photo.jpg")
    assert header.split() == ["prompt", "score", "contrast", "verdict", "peak", "x,y", "area", "s"]
    assert "a red car" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80
    results = json.loads(Path("out/localize/results.json").read_text())
    assert results["kind"] == "localize"
    assert [row["prompt"] for row in results["rows"]] == ["dog", "a red car"]
    for row in results["rows"]:
        (name,) = row["files"]
        with Image.open(Path("out/localize") / name) as picture:
            assert "scalecli localize photo.jpg" in picture.info["scalecli:command"]
    assert "wrote out/localize" in answer.err


def test_json_is_the_results_file_and_nothing_else(call: Call, photo: Path) -> None:
    answer = call("photo.jpg", "dog", "--json", "--quiet", "-o", "r")
    assert json.loads(answer.out) == json.loads(Path("r/results.json").read_text())
    assert answer.err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.jpg", "dog"], "nothing.jpg: no such image"),
        (["dog"], "no image: 'dog' is no file here"),
        (["photo.jpg"], "no prompt"),
        (["trainshapes"], "did you mean 'train-shapes'"),
        (["photo.jpg", ""], "empty"),
        (["photo.jpg", "dog", "--method", "gme"], "did you mean 'gem'"),
        (["photo.jpg", "dog", "--size", "12y"], "--size"),
        (["photo.jpg", "dog", "--threshold", "1.5"], "--threshold"),
        (["photo.jpg", "dog", "--cmap", "infernal"], "did you mean 'inferno'"),
        (["photo.jpg", "dog", "--alpha", "2"], "too large"),
        (["photo.jpg", "dog", "--template", "photo"], "put {}"),
        (["photo.jpg", "dog", "--option", "iterations"], "name=value"),
        (["photo.jpg", "dog", "--mask-file", "none.png"], "--mask-file"),
        (["photo.jpg", "dog", "--prompts-file", "none.txt"], "--prompts-file"),
        (["photo.jpg", "dog", "--images", "none"], "none: no such image"),
        (["photo.jpg", "dog", "--frob"], "--frob"),
        (["plot", "nowhere"], "no such file"),
    ],
)
def test_mistakes_are_one_line(call: Call, photo: Path, words: list[str], message: str) -> None:
    answer = call(*words)
    assert answer.code == 2, answer.err
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""


def test_one_bad_picture(call: Call, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    answer = call("text.jpg", "dog")
    assert answer.code == 1
    assert "text.jpg: not a picture" in answer.err.splitlines()[-1]


def test_a_folder_with_a_bad_file(call: Call, tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / "many" / f"{number}.png", number)
    (tmp_path / "many" / "bad.png").touch()
    answer = call("many", "dog", "-o", "r")
    assert answer.code == 1
    assert "skipped many/bad.png: empty (0 bytes)" in answer.err
    assert "1 of 4 pictures could not be used" in answer.err.splitlines()[-1]
    results = json.loads(Path("r/results.json").read_text())
    assert [row["image"] for row in results["rows"]] == [f"many/{n}.png" for n in range(3)]
    assert results["summary"]["errors"] == [{"image": "many/bad.png", "error": "empty (0 bytes)"}]
    # Repaired, the rest is not done again.
    paint(tmp_path / "many" / "bad.png", 9)
    before = (tmp_path / "r" / "rows.jsonl").read_text()
    answer = call("many", "dog", "-o", "r", "--resume")
    assert answer.code == 0, answer.err
    assert "3 of 4 pictures are on disk already" in answer.err
    assert (tmp_path / "r" / "rows.jsonl").read_text().startswith(before)
    results = json.loads(Path("r/results.json").read_text())
    assert len(results["rows"]) == 4
    assert results["rows"][3]["image"] == "many/bad.png"


def test_many_rows_stay_in_the_log(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "INLINE_ROWS", 5)
    monkeypatch.setattr("scalecli.localize.tables.MOST_ROWS", 5)
    for number in range(4):
        paint(tmp_path / "many" / f"{number}.png", number)
    answer = call("many", "dog", "cat", "-o", "r", "--no-overlay")
    assert "means over pictures" in answer.out
    results = json.loads(Path("r/results.json").read_text())
    assert results["rows"] == []
    assert results["summary"]["rows_file"] == "rows.jsonl"
    assert results["summary"]["row_count"] == 8
    rows = [
        row
        for line in Path("r/rows.jsonl").read_text().splitlines()
        for row in json.loads(line)["rows"]
    ]
    assert len(rows) == 8
    for mean in results["summary"]["means"]:
        own = [row["score"] for row in rows if row["prompt"] == mean["prompt"]]
        assert mean["score"] == pytest.approx(sum(own) / 4)
    assert "means over pictures" in call("plot", "r").out


def test_plot_draws_again_from_raw_scores(call: Call, photo: Path) -> None:
    methods = ("--method", "gem,attention-vv", "--through-layers")
    first = call("photo.jpg", "dog", "-o", "r", "--raw", *methods)
    before = {path.name: pixels(path) for path in Path("r").glob("*.png")}
    again = call("plot", "r")
    assert again.out == first.out
    assert len(before) == 4
    assert "gem.layers.png" in before
    for name, old in before.items():
        assert (pixels(f"r/{name}") == old).all()
    assert call("plot", "r", "--cmap", "viridis").code == 0
    assert all((pixels(f"r/{name}") != old).any() for name, old in before.items())
    assert "--raw" in call("photo.jpg", "dog", "-o", "s").err + call("plot", "s", "--alpha", 1).err
    photo.unlink()
    assert call("plot", "r").code == 2


def test_refined_maps_have_the_size_of_the_input(call: Call, photo: Path) -> None:
    assert call("photo.jpg", "dog", "-o", "plain", "--raw", "--method", "gem").code == 0
    assert (
        call("photo.jpg", "dog", "-o", "fine", "--raw", "--method", "gem", "--refine", "pamr").code
        == 0
    )
    with np.load("plain/gem.npz") as plain, np.load("fine/gem.npz") as fine:
        coarse, refined, size = plain["scores"], fine["scores"], tuple(fine["input_size"])
    assert refined.shape[1:] == size
    assert coarse.shape[1] < refined.shape[1]
    # Averages of neighbours stay within what they are averages of.
    assert refined.min() >= coarse.min() - 1e-6
    assert refined.max() <= coarse.max() + 1e-6


def test_compare_over_several_pictures(call: Call, tmp_path: Path) -> None:
    for number in range(2):
        paint(tmp_path / f"{number}.png", number)
    assert call("0.png", "1.png", "dog", "cat", "--compare", "--method", "all").code == 0
    whole, *parts = (pixels(f"out/localize/{n}contact.png") for n in ("", "0/", "1/"))
    assert len(whole) == sum(len(part) for part in parts)


def test_methods_lists_every_kind(call: Call) -> None:
    answer = call("methods")
    assert answer.code == 0
    for name in ("gem", "cam", "gradcam", "attention-vv", "clip-surgery"):
        assert re.search(rf"^{re.escape(name)} ", answer.out, re.MULTILINE)


def test_notes_say_what_was_cut_or_doubled(call: Call, photo: Path) -> None:
    answer = call("photo.jpg", "dog", "dog", "x" * 5000)
    assert answer.code == 0
    assert "given twice" in answer.err
    assert "only the beginning" in answer.err


def test_a_real_process_refuses_before_it_loads_torch() -> None:
    code = (
        "import sys; sys.argv = ['scalecli', 'localize', 'no.jpg', 'dog']\n"
        "from scalecli.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split() == ["2", "False"]
    assert answer.stderr.startswith("error: no.jpg: no such image")


def test_a_run_that_failed_at_once_leaves_its_folder_free(call: Call, photo: Path) -> None:
    first = call("photo.jpg", "dog", "--method", "gradcam", "--block", 99, "-o", "r")
    assert first.code == 2
    assert first.err.count("\n") == 1
    assert call("photo.jpg", "dog", "--method", "gradcam", "-o", "r").code == 0
