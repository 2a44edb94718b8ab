"""`scalecli localize-eval` as a user meets it: a small random CLIP in a folder, real files out."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scalecli.cli.main import main

Call = Callable[..., tuple[int, str, str]]
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "layers": 6, "width": 32, "head_width": 16, "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    clip: Any = CLIP(**MODEL_CONFIG)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scalecli", "localize-eval", *map(str, words)])
        # pytest keeps its own way of ending.
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def without_times(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["rows"]
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "peak_mb")} for row in found
    ]


def test_run_resume_and_plot(model: str, call: Call, tmp_path: Path) -> None:
    words = ("--model", model, "--method", "gem,patch-text", "--limit", "5", "--workers", "1")
    code, out, err = call(*words, "--out", tmp_path / "a")
    assert code == 0, err
    assert "protocol shapes, 5 images" in out
    assert max(map(len, out.splitlines())) <= 100
    pictures = ("quality-speed.png", "classes.png", "examples.png")
    for name in pictures:
        with Image.open(tmp_path / "a" / name) as picture:
            assert picture.size[0] > 400
            assert "localize-eval" in str(picture.info["scalecli:command"])

    # A run killed after three rows (two are costs), continued.
    (tmp_path / "b").mkdir()
    lines = (tmp_path / "a" / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "rows.jsonl").write_text("".join(lines[:3]) + lines[3][:30])
    code, _out, err = call(*words, "--out", tmp_path / "b", "--resume")
    assert code == 0, err
    assert without_times(tmp_path / "b") == without_times(tmp_path / "a")

    for name in pictures[:2]:
        (tmp_path / "a" / name).unlink()
    code, again, err = call("plot", tmp_path / "a")
    assert code == 0, err
    assert again == out
    assert all((tmp_path / "a" / name).exists() for name in pictures)

    code, _out, err = call(*words, "--out", tmp_path / "a")
    assert code == 2
    assert "holds a run already" in err


def test_json_is_all_that_is_printed(model: str, call: Call, tmp_path: Path) -> None:
    code, out, err = call(
        "--model", model, "--method", "maskclip", "--limit", "3", "--workers", "1", "--json",
        "--quiet", "--examples", "0", "--set", "resamples=100", "--out", tmp_path / "r",
    )  # fmt: skip
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["kind"] == "localize-eval"
    assert data["summary"]["protocol_keys"]["background"] == "ignore"
    (row,) = data["rows"]
    assert row["method"] == "maskclip"
    low, value, high = row["miou"][1], row["miou"][0], row["miou"][2]
    assert low <= value <= high


def test_a_bad_mask_stops_the_run_with_what_is_done(model: str, call: Call, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True)
    (data / "classes.txt").write_text("background\ncat\n")
    for i, width in enumerate((32, 32, 40)):
        Image.new("RGB", (32, 32), (9, 9, 9)).save(data / "images" / f"{i}.png")
        mask = Image.new("L", (width, 32), 0)
        mask.paste(1, (0, 0, 9, 9))
        mask.save(data / "masks" / f"{i}.png")
    out = tmp_path / "out"
    words = (
        "--dataset", f"pairs:{data}", "--model", model, "--method", "gem", "--workers", "1",
        "--out", out,
    )  # fmt: skip
    code, _, err = call(*words)
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert "2.png: 40×32, but its image 2.png is 32×32" in last
    assert not (out / "results.json").exists()
    assert (out / "rows.jsonl").read_text().count('"image"') == 2
    Image.new("L", (32, 32), 1).save(data / "masks" / "2.png")
    code, _, err = call(*words, "--resume", "--examples", "1")
    assert code == 0, err
    assert "2 of 3 images are on disk already" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "vocc:x"], "did you mean 'voc'"),
        (["--dataset", "ade20k:/nowhere"], "no such folder"),
        (["--protocol", "voc22"], "did you mean 'voc21' or 'voc20'"),
        (["--change", "treshold=0.5"], "did you mean 'threshold'"),
        (["--change", "threshold"], "write key=value"),
        (["--protocol", "voc20"], "names 20 classes, the dataset has 8"),
        (["--limit", "0"], "too small"),
        (["--method", "gem,gem"], "there twice"),
        (["--split", "nowhere"], "train and held-out"),
        (["plot", "nowhere"], "no such file"),
        (["--modle", "x"], "--modle"),
        (["--address", "x"], "--engine ray"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    words: list[str], message: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words)
    assert code == 2, err
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_unknown_method_names_those_that_apply(model: str, call: Call, tmp_path: Path) -> None:
    code, _, err = call("--model", model, "--method", "gme", "--out", tmp_path / "r")
    assert code == 2
    assert "did you mean 'gem'" in err


def test_protocols_are_listed(call: Call) -> None:
    code, out, _ = call("protocols")
    assert code == 0
    for name in ("voc20", "voc21", "ade150", "coco-object", "gem", "shapes"):
        assert name in out


@pytest.mark.slow
def test_worker_processes_give_the_same_rows(model: str, call: Call, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        code, _, err = call(
            "--model", model, "--method", "gem,sclip", "--limit", "6", "--workers", workers,
            "--out", tmp_path / workers,
        )  # fmt: skip
        assert code == 0, err
    assert without_times(tmp_path / "1") == without_times(tmp_path / "2")
