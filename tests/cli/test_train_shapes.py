"""`scalecli localize train-shapes` as a user meets it, on two steps of training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scalecli.cli import shapes
from scalecli.cli.main import main
from scalecli.localize.load import load_encoder
from scalecli.localize.model_config import ModelConfig
from scalecli.localize.shapes import load_shapes
from scalecli.localize.shapes.weights import load_record

Call = Callable[..., tuple[int, str, str]]
TINY = (
    "--steps", "2", "--batch", "4", "--measure-every", "1", "--test-scenes", "32", "--no-bf16",
    "--threads", "1",
)  # fmt: skip


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr(shapes, "FINAL_SCENES", 32)

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scalecli", "localize", "train-shapes", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_run_leaves_weights_with_their_record(call: Call, tmp_path: Path) -> None:
    code, out, err = call(*TINY, "--out", tmp_path)
    assert code == 0, err
    assert "Zero-shot accuracy on 32 held-out scenes" in out
    assert "step 1: loss" in err
    record = load_record(tmp_path)
    assert record.config.steps == 2
    assert [row["step"] for row in record.curve] == [1, 2]
    encoder = load_encoder(ModelConfig(model="shapes", pretrained=str(tmp_path), device="cpu"))
    assert encoder.fingerprint != load_encoder(ModelConfig(model="shapes")).fingerprint
    model, *_ = load_shapes(tmp_path)
    assert sum(p.numel() for p in model.parameters()) == record.parameters
    assert {"scenes.png", "training.png", "results.json"} <= {p.name for p in tmp_path.iterdir()}

    code, _, err = call(*TINY, "--out", tmp_path)
    assert code == 2
    assert "--resume continues it" in err
    weights = (tmp_path / "weights.safetensors").read_bytes()
    code, out, err = call(*TINY, "--out", tmp_path, "--resume", "--json")
    assert code == 0
    assert "going on from step 2 of 2" in err
    assert (tmp_path / "weights.safetensors").read_bytes() == weights
    assert len(json.loads(out)["rows"]) == 2
    code, _, err = call(*TINY, "--seed", "1", "--out", tmp_path, "--resume")
    assert code == 2
    assert "made with another config" in err


def test_an_odd_batch_is_refused(call: Call) -> None:
    code, _, err = call("--batch", "5")
    assert code == 2
    assert err.strip() == "error: --batch must be even: every scene comes with its twin"
