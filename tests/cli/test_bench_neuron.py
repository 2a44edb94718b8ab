"""`scalecli bench-neuron` as a user meets it: real processes, tables, files, one-line errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "scalecli", "bench-neuron"]
QUICK = ["--device", "cpu", "--steps", "2", "--repeats", "2", "--data", "resident"]


def call(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **env},
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tun"], "tune"),
        (["--device", "gpu"], "unknown 'gpu'"),
        (["--device", "neuron"], "no /dev/neuron0; torch-neuronx is not installed"),
        (["--batch-size", "0"], "too small"),
        (["--num-workers", "-1"], "too small"),
        (["--device", "cpu", "--batches-per-execution", "10", "--steps", "5"], "above --steps 5"),
        (["--auto-cast", "matmul"], "did you mean 'matmult'"),
        (["--auto-cast-type", "bf61", "--auto-cast", "all"], "did you mean 'bf16'"),
        (["--target", "inf3"], "did you mean 'inf2'"),
        (["--compile", "inducto"], "did you mean 'inductor'"),
        (["--data", "randm"], "did you mean 'random'"),
        (["--amp", "--bf16"], "give one"),
        (["--env", "A"], "KEY=VALUE"),
        (["--ladder", "artcle"], "did you mean 'bench/article'"),
        (["--ladder", "article", "--batch-size", "4"], "--batch-size: the ladder sets this"),
        (["--fail-above", "5"], "needs --compare"),
        (["--compare", "no-such"], "no such file"),
        (["--nnodes", "2"], "--rdzv-endpoint"),
        (["--model", "vit_tinny_patch16_224", "--device", "cpu"], "did you mean 'vit_tiny"),
        (["--image-size", "8", "--device", "cpu"], "--image-size 8"),
        (["--model", "resnet18", "--depth", "2", "--device", "cpu"], "--depth: resnet18"),
        (["tune", "--budget", "soon"], "10m"),
        (["tune", "--space", "batchsize=4"], "did you mean 'batch_size'"),
        (["plot", "no-such-folder"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words: list[str], message: str) -> None:
    answer = call(*words)
    assert answer.returncode == 2, answer.stderr
    assert message in answer.stderr
    errors = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


def test_a_damaged_compare_file_is_named_before_anything_runs(tmp_path: Path) -> None:
    damaged = tmp_path / "results.json"
    damaged.write_text('{"schema": 1, "rows": [')
    answer = call("--device", "cpu", "--compare", damaged, "--out", tmp_path / "new")
    assert answer.returncode == 2
    assert "damaged or not JSON" in answer.stderr
    assert not (tmp_path / "new").exists()


def test_run_resume_plot_and_compare(tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = call(*QUICK, "--batches-per-execution", "2", "--out", out, "--json")
    assert answer.returncode == 0, answer.stderr
    saved = json.loads((out / "results.json").read_text())
    assert json.loads(answer.stdout) == saved
    base, foreign = saved["rows"]
    assert (base["rung"], base["status"], base["speedup"]) == ("baseline", "ok", 1.0)
    assert len(base["repeats"]) == 2
    assert base["samples_per_s_low"] <= base["samples_per_s"] <= base["samples_per_s_high"]
    assert (foreign["status"], foreign["samples_per_s"]) == ("unsupported", None)
    assert "not applicable to plain torch" in foreign["reason"]
    assert not (out / ".compiled").exists()
    with Image.open(out / "ladder.png") as picture:
        assert "bench-neuron" in picture.info["scalecli:command"]

    again = call(*QUICK, "--batches-per-execution", "2", "--out", out, "--resume", "--compare", out)
    assert again.returncode == 0, again.stderr
    assert "2 of 4 processes are on disk already" in again.stderr
    assert "not significant" in again.stdout
    assert max(map(len, again.stdout.splitlines())) <= 80
    resumed = json.loads((out / "results.json").read_text())
    assert resumed["rows"] == saved["rows"]
    assert resumed["summary"]["comparison"][0]["ratio"] == 1.0

    (out / "trace.png").unlink()
    plotted = call("plot", out)
    assert plotted.returncode == 0, plotted.stderr
    assert plotted.stdout == again.stdout
    assert (out / "trace.png").exists()


def test_a_slower_run_fails_for_ci(tmp_path: Path) -> None:
    out, faster = tmp_path / "run", tmp_path / "faster"
    assert call(*QUICK, "--out", out).returncode == 0
    saved = json.loads((out / "results.json").read_text())
    first = saved["rows"][0]["repeats"][0]["samples_per_s"]
    for repeat in saved["rows"][0]["repeats"]:
        repeat["samples_per_s"] = 2 * first
    faster.mkdir()
    (faster / "results.json").write_text(json.dumps(saved))
    # The run itself with two equal repeats: its ratio to a file twice as fast is beyond doubt.
    log = out / "rows.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        line["rows"][0]["samples_per_s"] = first
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    slow = call(*QUICK, "--out", out, "--resume", "--compare", faster, "--fail-above", "10")
    assert slow.returncode == 1
    assert "baseline by 50.0 %" in slow.stderr
    kept = call(*QUICK, "--out", out, "--resume", "--compare", faster, "--fail-above", "60")
    assert kept.returncode == 0, kept.stderr
    other = call(*QUICK, "--image-size", "48", "--compare", faster, "--out", tmp_path / "other")
    assert other.returncode == 2
    assert "--image-size 32, this run has 48" in other.stderr


def test_ladders_are_listed() -> None:
    answer = call("ladders")
    assert answer.returncode == 0
    assert "AWS recipe" in answer.stdout
    assert max(map(len, answer.stdout.splitlines())) <= 80


@pytest.mark.slow
def test_tune_names_a_winner_and_its_command(tmp_path: Path) -> None:
    answer = call(
        "tune", *QUICK, "--budget", "60s", "--space", "batch_size=2,4", "--out", tmp_path, "--json"
    )
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)["summary"]
    assert summary["winner_command"].startswith("scalecli bench-neuron --")
    assert summary["trials"][0]["answer"]["status"] == "ok"
    again = call("tune", *QUICK, "--budget", "60s", "--space", "batch_size=2,4", "--out", tmp_path,
                 "--resume", "--json")  # fmt: skip
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_the_same_setting_twice_is_not_significant(tmp_path: Path) -> None:
    ladder = tmp_path / "aa.yaml"
    ladder.write_text("rungs: [{name: a, config: {batch_size: 4}}, {name: b, after: a}]\n")
    words = ["--device", "cpu", "--steps", "20", "--repeats", "4", "--data", "resident"]
    answer = call(*words, "--ladder", ladder, "--out", tmp_path / "run", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["rows"][1]["significant"] is False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_the_largest_batch_is_found_where_memory_runs_out(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--steps", "1", "--repeats", "1", "--data", "resident"]
    limit = ["--batch-size", "8000", "--memory-limit-mb", "1500", "--find-batch"]
    answer = call(*words, *limit, "--out", tmp_path / "run", "--json")
    assert answer.returncode == 0, answer.stderr
    base, large = json.loads(answer.stdout)["rows"]
    assert base["status"] == "ok"
    assert large["reason"].startswith("out of memory")
    assert 16 < large["largest_batch"] < 8000
