"""The command line as a user meets it: real processes, exit codes, one-line errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "scalecli"]


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=240)


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['scalecli', '--help']\n"
        "from scalecli.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "bad = {'torch', 'sklearn', 'matplotlib', 'numpy', 'scipy'} & set(sys.modules)\n"
        "sys.exit(' '.join(bad) or 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "spiral" in answer.stdout
    assert "doctor" in answer.stdout


def test_version() -> None:
    assert call("--version").stdout.startswith("scalecli 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spiral", "swep"], "sweep"),
        (["nothing"], "No such command"),
        (["spiral", "--sizes", "1e3x"], "--sizes"),
        (["spiral", "sweep", "--sizes", "0"], "too small"),
        (["spiral", "sweep", "--sizes", "-5"], "too small"),
        (["spiral", "sweep", "--models", "kmn5"], "did you mean"),
        (["spiral", "sweep", "--models", "knn5", "--sizes", "3"], "knn5"),
        (["spiral", "sweep", "--eval", "gird"], "grid"),
        (["spiral", "sweep", "--set", "problem.manifold.turnz=3"], "turns"),
        (["spiral", "sweep", "--config", "no-such"], "no such file"),
        (["spiral", "sweep", "--data", "x.csv"], "--target"),
        (["spiral", "sweep", "--data", "x.csv", "--target", "y"], "no such file"),
        (["spiral", "sweep", "--out", "/proc/nothing"], "--out"),
        (["spiral", "fit", "mlp-pola"], "did you mean"),
        (["spiral", "plot", "no-such-folder"], "no such file"),
        (["spiral", "show", "--frob"], "--frob"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words: list[str], message: str) -> None:
    answer = call(*words)
    assert answer.returncode == 2, answer.stderr
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""


SMALL = [
    "spiral",
    "sweep",
    "--sizes",
    "50,100,200",
    "--models",
    "knn1,knn5",
    "--seeds",
    "2",
    "--test-points",
    "2000",
    "--workers",
    "2",
]


def test_sweep_writes_results_pictures_and_plots_them_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = call(*SMALL, "--out", out, "--json")
    assert answer.returncode == 0, answer.stderr
    printed = json.loads(answer.stdout)
    saved = json.loads((out / "results.json").read_text())
    assert printed == saved
    assert saved["schema"] == 1
    assert len(saved["rows"]) == 3 * 2 * 2 * 4
    with Image.open(out / "f1.png") as picture:
        assert "spiral sweep" in picture.info["scalecli:command"]
        assert json.loads(picture.info["scalecli:config"]) == saved["config"]

    (out / "f1.png").unlink()
    again = call("spiral", "plot", out)
    assert again.returncode == 0, again.stderr
    assert (out / "f1.png").exists()
    assert "\x1b" not in again.stdout
    assert max(map(len, again.stdout.splitlines())) <= 80

    refused = call(*SMALL, "--out", out)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    (out / "results.json").write_text('{"schema": 1, "rows": [')
    damaged = call("spiral", "plot", out)
    assert damaged.returncode == 2
    assert "damaged" in damaged.stderr


def test_a_killed_sweep_resumes_to_the_same_rows(tmp_path: Path) -> None:
    words = [*SMALL[:4], "--models", "knn1,forest", "--seeds", "4", "--test-points", "2000"]
    whole = call(*words, "--out", tmp_path / "whole", "--json", "--workers", "1")
    run = subprocess.Popen(
        [*COMMAND, *words, "--out", str(tmp_path / "cut"), "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    log = tmp_path / "cut" / "rows.jsonl"
    for _ in range(600):
        if run.poll() is not None or (log.exists() and log.read_text().count("\n") >= 3):
            break
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    resumed = call(*words, "--out", tmp_path / "cut", "--json", "--resume")
    assert resumed.returncode == 0, resumed.stderr

    def scores(text: str) -> list[tuple[object, ...]]:
        return [
            (r["model"], r["n"], r["seed"], r["region"], r["f1"], r["error"])
            for r in json.loads(text)["rows"]
        ]

    assert scores(resumed.stdout) == scores(whole.stdout)


def test_show_fit_and_doctor_run(tmp_path: Path) -> None:
    for name, words in {
        "show": ["spiral", "show", "--n", "200"],
        "fit": ["spiral", "fit", "knn1", "--n", "200", "--test-points", "1000"],
        "why": [
            "spiral",
            "why-k1",
            "--sizes",
            "100,200",
            "--seeds",
            "1",
            "--test-points",
            "500",
            "--neighbours",
            "1,5",
        ],
    }.items():
        answer = call(*words, "--out", tmp_path / name)
        assert answer.returncode == 0, answer.stderr
        assert list((tmp_path / name).glob("*.png"))
    answer = call("doctor")
    assert answer.returncode == 0
    assert "torch" in answer.stdout
