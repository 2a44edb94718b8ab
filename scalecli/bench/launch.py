"""Workers one after another, in random order; nothing a worker does ends the run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalecli.bench.config import BenchConfig, RungConfig, check
from scalecli.bench.ladder import Rung
from scalecli.bench.records import Answer, Request, read_answer
from scalecli.bench.routes.base import Route
from scalecli.bench.worker import is_out_of_memory
from scalecli.core.errors import UsageError

Command = Callable[[Path, Path, RungConfig], Sequence[str]]
"""The command line of a worker from its request, its answer and its rung."""


@dataclass(frozen=True)
class Outcome:
    """How one process of one rung ended."""

    rung: str
    repeat: int
    answer: Answer


def worker_command(request: Path, answer: Path, rung: RungConfig) -> list[str]:
    """A fresh interpreter, through torchrun for several processes."""
    command = [sys.executable, "-m"]
    if rung.nproc > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={rung.nproc}", "-m"]
    return [*command, "scalecli.bench.worker", str(request), str(answer)]


def order(rungs: Sequence[Rung], repeats: int, rng: random.Random) -> list[tuple[Rung, int]]:
    """Every rung once per round, shuffled within the round: slow drift hits all rungs alike."""
    plan: list[tuple[Rung, int]] = []
    for repeat in range(repeats):
        round_ = [(rung, repeat) for rung in rungs]
        rng.shuffle(round_)
        plan += round_
    return plan


def run_all(
    rungs: Sequence[Rung],
    route: Route,
    bench: BenchConfig,
    *,
    command: Command = worker_command,
) -> Iterator[Outcome]:
    """Yield every outcome as it is known; unsupported rungs first, without a process.

    Args:
        rungs: unique by name.
        route: from :func:`scalecli.bench.routes.choose`.
        bench: settled by :func:`scalecli.bench.config.with_preset`.
        command: how to start a worker.

    Raises:
        UsageError: a rung does not fit the bench (before anything is started).
    """
    runnable = []
    unsupported = []
    for rung in rungs:
        reason = route.unsupported(rung.config, bench.device)
        if reason is None:
            check(bench, rung.config)
            runnable.append(rung)
        else:
            unsupported.append(Outcome(rung.name, 0, Answer("unsupported", reason)))
    yield from unsupported
    hopeless: dict[str, str] = {}
    for rung, repeat in order(runnable, bench.repeats, random.Random(bench.seed)):
        if rung.name in hopeless:
            reason = f"an earlier repeat: {hopeless[rung.name]}"
            yield Outcome(rung.name, repeat, Answer("skipped", reason))
            continue
        answer = run_one(rung.config, route, bench, command=command)
        # Neither of these gets better by waiting for it once more.
        if answer.status == "failed" and answer.reason.startswith(("timed out", "out of memory")):
            hopeless[rung.name] = answer.reason
        yield Outcome(rung.name, repeat, answer)


def run_one(
    rung: RungConfig, route: Route, bench: BenchConfig, *, command: Command = worker_command
) -> Answer:
    """Run a rung in a fresh process and classify how it ended."""
    request = Request(route.name, bench.device, bench, rung)
    with tempfile.TemporaryDirectory(prefix="scalecli-bench-") as name:
        folder = Path(name)
        asked, answered, log = folder / "request.json", folder / "answer.json", folder / "log"
        asked.write_text(request.to_json(), encoding="utf-8")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(asked, answered, rung),
                env={**os.environ, **route.environment(rung, bench.device)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(bench.timeout)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end_group(process)
        said = log.read_text(encoding="utf-8", errors="replace")
        return classify(code, answered, said, timeout=bench.timeout)


def classify(code: int | None, answered: Path, said: str, *, timeout: float) -> Answer:
    """What to make of a worker that ended.

    Args:
        code: its exit status, negative for a signal, None when it was still running.
        answered: where its answer should be.
        said: its stdout and stderr.
        timeout: seconds it was given.
    """
    if answered.exists():
        try:
            return read_answer(answered)
        except UsageError as error:
            return Answer("failed", f"the worker's answer is damaged: {error}")
    if code is None:
        return Answer("failed", f"timed out after {timeout:g} s")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "it said nothing"
    if is_out_of_memory(said):
        reason = f"out of memory: {last}"
    elif code == -signal.SIGKILL:
        reason = "killed by signal 9, most likely for memory"
    elif code < 0:
        reason = f"crashed with {signal.Signals(-code).name}: {last}"
    else:
        reason = f"ended with status {code} and no answer: {last}"
    return Answer("failed", reason)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started (loader processes, torchrun's children)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
