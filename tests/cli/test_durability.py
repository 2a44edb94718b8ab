"""Faults while a run works: what is finished stays, and the rest can be continued."""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "scalecli"]
SWEEP = shlex.split(
    "spiral sweep --sizes 100 --models knn1,knn5,logistic --seeds 12 --test-points 500"
)
LONG = shlex.split("spiral sweep --sizes 100k --models knn1,forest --seeds 30 --test-points 200000")
"""Cells that take seconds each, so that a signal finds some finished and some not."""


BUSY = ("seconds", "_per_second", "peak_mb")


def call(*words: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=300, **settings
    )


def start(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished run without what depends on how busy the machine was."""
    found = json.loads((folder / "results.json").read_text())["rows"]
    return [{k: v for k, v in row.items() if not k.endswith(BUSY)} for row in found]


def pixels(folder: Path) -> dict[str, tuple[Any, bytes]]:
    """Every picture of a run without its text chunks, which name the command line."""
    found = {}
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            found[str(path.relative_to(folder))] = (image.size, image.convert("RGB").tobytes())
    return found


def finished_cells(folder: Path) -> int:
    log = folder / "rows.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid: int) -> list[tuple[int, str]]:
    """Processes whose parent is ``pid``, with their command lines."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if parent == pid:
            found.append((int(entry.name), line))
    return found


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("error: ")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    answer = call(*SWEEP, "--out", folder, "--workers", "1")
    assert answer.returncode == 0, answer.stderr
    return folder


@pytest.mark.slow
def test_twenty_kills_at_random_moments_cost_no_row(whole: Path, tmp_path: Path) -> None:
    chance, partial, number = random.Random(0), 0, 0
    folder = tmp_path / "0"
    begin = time.monotonic()
    assert call(*SWEEP, "--out", tmp_path / "timed", "--workers", "2").returncode == 0
    duration = time.monotonic() - begin
    for _ in range(20):
        run = start(*SWEEP, "--out", folder, "--workers", "2", "--resume")
        time.sleep(chance.uniform(0, duration))
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        partial += 0 < finished_cells(folder) < 36
        if (folder / "results.json").exists():
            assert rows(folder) == rows(whole)
            number += 1
            folder = tmp_path / str(number)
    answer = call(*SWEEP, "--out", folder, "--workers", "2", "--resume")
    assert answer.returncode == 0, answer.stderr
    assert rows(folder) == rows(whole)
    assert partial >= 1  # some kill fell between the first cell and the last


@pytest.mark.parametrize(
    ("number", "to_all", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGINT, False, 130), (signal.SIGTERM, False, 143)],
)
def test_a_signal_ends_the_run_with_the_line_that_continues_it(
    tmp_path: Path, number: signal.Signals, to_all: bool, code: int
) -> None:
    run = start(*LONG, "--out", tmp_path, "--workers", "2")
    until(lambda: finished_cells(tmp_path) >= 1)
    workers = children(run.pid)
    assert workers
    (os.killpg if to_all else os.kill)(run.pid, number)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == code, stderr
    assert one_line(stderr), stderr
    _, _, line = stderr.partition("continue with: ")
    assert shlex.split(line)[:3] == ["scalecli", "spiral", "sweep"]
    assert line.rstrip().endswith("--resume")
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid, _ in workers), 20)


def test_an_interrupted_run_without_out_is_continued_where_it_is(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "spiral-sweep"
    shutil.copytree(whole, folder)
    (folder / "results.json").unlink()
    log = (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "rows.jsonl").write_bytes(b"".join(log[:30]) + log[30][:20])
    answer = call(*SWEEP, "--resume", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "30 of 36 cells are on disk already" in answer.stderr
    assert rows(folder) == rows(whole)
    assert [path.name for path in folder.parent.iterdir()] == ["spiral-sweep"]


def test_a_full_disk_is_one_line_and_the_run_continues(whole: Path, tmp_path: Path) -> None:
    def full_after_9_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))

    words = [*SWEEP, "--out", str(tmp_path), "--workers", "2"]
    answer = call(*words, preexec_fn=full_after_9_kb)
    assert answer.returncode == 1
    assert one_line(answer.stderr), answer.stderr
    assert "rows.jsonl" in answer.stderr
    assert "--resume" in answer.stderr
    log = (tmp_path / "rows.jsonl").read_bytes()
    assert 0 < len(log) <= 9_000
    assert log.endswith(b"\n")  # the line that did not fit was taken back
    assert call(*words, "--resume").returncode == 0
    assert rows(tmp_path) == rows(whole)


def test_a_vanished_folder_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = start(*LONG, "--out", folder, "--workers", "2")
    until(lambda: finished_cells(folder) >= 1)
    folder.rename(tmp_path / "moved")
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 1
    assert one_line(stderr), stderr
    assert "moved or deleted" in stderr
    assert not folder.exists()
    assert finished_cells(tmp_path / "moved") >= 1


def test_a_killed_worker_is_one_line_and_the_finished_cells_stay(tmp_path: Path) -> None:
    run = start(*LONG, "--out", tmp_path, "--workers", "2")
    until(lambda: finished_cells(tmp_path) >= 1)
    workers = [pid for pid, line in children(run.pid) if "spawn_main" in line]
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 1
    assert one_line(stderr), stderr
    assert "a worker process died" in stderr
    assert finished_cells(tmp_path) >= 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(40):
        noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 120)).save(folder / f"{number:02}.jpg")
    (folder / "07.jpg").write_text("no picture")
    return folder


FORKER = """
import json, os, sys
import torch, open_clip
import scalecli.localize.load, scalecli.localize.drawing, scalecli.localize.job
from scalecli.cli.main import main

torch.set_num_threads(1)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.argv = ["scalecli", *json.loads(line)]
        main()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Runs command lines in forks of one process that has loaded its libraries, which takes longer
than the job."""


@dataclass
class Forker:
    process: subprocess.Popen[str]

    def start(self, words: list[str]) -> int:
        """The process number of a new run."""
        self._ask(json.dumps(words))
        return self._answer()

    def end(self) -> int:
        """Wait for the run; its exit code, negative after a signal."""
        return self._answer()

    def _ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture
def forker() -> Iterator[Forker]:
    with subprocess.Popen(
        [sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Forker(process)
        process.kill()


def folder_job(pictures: Path, model: str, out: Path) -> list[str]:
    return [
        "localize", str(pictures), "--prompt", "dog", "--prompt", "sky", "--heatmap",
        "--model", model, "--method", "maskclip", "--offline", "--out", str(out), "--resume",
    ]  # fmt: skip


def test_twenty_kills_of_a_folder_job_cost_no_picture(
    pictures: Path, small_clip: str, forker: Forker, tmp_path: Path
) -> None:
    def finish(out: Path) -> None:
        forker.start(folder_job(pictures, small_clip, out))
        assert forker.end() == 1  # 07.jpg is no picture

    whole = tmp_path / "whole"
    finish(whole)
    assert len(rows(whole)) == 2 * 39
    chance, within, number = random.Random(0), 0, 0
    out = tmp_path / "0"
    for kill in range(20):
        before = finished_cells(out)
        pid = forker.start(folder_job(pictures, small_clip, out))
        if kill % 4:  # a part of the kills comes before there is any row
            until(lambda log=out, n=before: finished_cells(log) > n or result(log))  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.2))
        os.kill(pid, signal.SIGKILL)
        forker.end()
        within += before < finished_cells(out) < 39
        if result(out):
            assert rows(out) == rows(whole)
            number += 1
            out = tmp_path / str(number)
    finish(out)
    assert rows(out) == rows(whole)
    assert pixels(out) == pixels(whole)
    assert within >= 3  # kills that fell between the first picture and the last


@pytest.mark.slow
def test_kills_of_a_folder_job_on_two_workers_cost_no_picture(
    pictures: Path, small_clip: str, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert call(*folder_job(pictures, small_clip, whole)).returncode == 1  # 07.jpg is no picture
    chance, within = random.Random(0), 0
    words = [*folder_job(pictures, small_clip, out), "--workers", "2"]
    for _ in range(5):
        before = finished_cells(out)
        run = start(*words)
        until(lambda n=before: finished_cells(out) > n or result(out))  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.1))
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        within += before < finished_cells(out) < 39
    assert call(*words).returncode == 1
    assert rows(out) == rows(whole)
    assert pixels(out) == pixels(whole)
    assert within >= 1


def result(folder: Path) -> bool:
    return (folder / "results.json").exists()


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    run = start(*LONG, "--out", tmp_path, "--workers", "1")
    until(lambda: finished_cells(tmp_path) >= 1)
    for more in (["--resume"], ["--overwrite"], []):
        second = call(*SWEEP, "--out", tmp_path, *more)
        assert second.returncode == 2
        assert one_line(second.stderr)
        assert "another run is writing there" in second.stderr
    assert run.poll() is None
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert finished_cells(tmp_path) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_a_killed_ray_head_is_one_line_and_the_run_continues(tmp_path: Path, victim: str) -> None:
    pytest.importorskip("ray")
    run = start(*LONG, "--engine", "ray", "--workers", "2", "--out", tmp_path)
    until(lambda: finished_cells(tmp_path) >= 1)
    (head,) = [pid for pid, line in children(run.pid) if f"/{victim}" in line.split(" ")[0]]
    os.kill(head, signal.SIGKILL)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 1
    assert one_line(stderr), stderr
    assert "gone" in stderr
    assert "--resume" in stderr
    assert finished_cells(tmp_path) >= 1
