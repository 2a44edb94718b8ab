"""Workers one after another, in random order; nothing a worker does ends the run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalecli.bench.config import BenchConfig, RungConfig, check, on_cpu
from scalecli.bench.ladder import Rung
from scalecli.bench.records import Answer, Request, read_answer
from scalecli.bench.routes.base import Route
from scalecli.bench.worker import is_out_of_memory
from scalecli.core.errors import UsageError
from scalecli.core.files import slug

Command = Callable[[Path, Path, Request], Sequence[str]]
"""The command line of a worker from the files of its request and its answer."""

QUICK_COMPILE = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
"""Under the tiny preset, for XLA's CPU compiler: ten unrolled steps in a third of the time."""

GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL: torchrun's children have sessions of their own, and only
torchrun can end them."""


OUT_OF_MEMORY = "out of memory"
"""How the reason of a rung begins that found no memory."""


@dataclass(frozen=True)
class Outcome:
    """How one process of one rung ended."""

    rung: str
    repeat: int
    answer: Answer


def worker_command(asked: Path, answered: Path, request: Request) -> list[str]:
    """A fresh interpreter, through torchrun for several processes."""
    command = [sys.executable, "-m"]
    bench, nproc = request.bench, request.rung.nproc
    if nproc * bench.nnodes > 1:
        command += ["torch.distributed.run", f"--nproc-per-node={nproc}"]
        if bench.nnodes > 1:
            command += [
                f"--nnodes={bench.nnodes}",
                "--rdzv-backend=c10d",
                f"--rdzv-endpoint={bench.rdzv_endpoint}",
            ]
        else:
            command += ["--standalone"]
        command += ["-m"]
    return [*command, "scalecli.bench.worker", str(asked), str(answered)]


def environment(route: Route, rung: RungConfig, bench: BenchConfig) -> dict[str, str]:
    """Every variable set for a worker, its compile cache aside."""
    quick = bench.preset == "tiny" and bench.device == "xla" and on_cpu("xla")
    derived = QUICK_COMPILE if quick and "XLA_FLAGS" not in os.environ else {}
    return {**derived, **route.environment(rung, bench.device)}


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
    known: Mapping[tuple[str, int], Answer] | None = None,
    caches: Path | None = None,
    command: Command = worker_command,
) -> Iterator[Outcome]:
    """Yield every outcome as it is known; unsupported rungs first, without a process.

    Args:
        rungs: unique by name.
        route: from :func:`scalecli.bench.routes.choose`.
        bench: settled by :func:`scalecli.bench.config.with_preset`.
        known: answers of an earlier run by (rung, repeat); they are not measured again.
        caches: where each rung keeps its compiled graphs between repeats.
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
        found = (known or {}).get((rung.name, repeat))
        if found is None and rung.name in hopeless:
            found = Answer("skipped", f"an earlier repeat: {hopeless[rung.name]}")
        if found is None:
            cache = caches / slug(rung.name) if caches else None
            found = run_one(rung.config, route, bench, cache=cache, command=command)
        # Neither of these gets better by waiting for it once more.
        if found.status == "failed" and found.reason.startswith(("timed out", OUT_OF_MEMORY)):
            hopeless[rung.name] = found.reason
        yield Outcome(rung.name, repeat, found)


def run_one(
    rung: RungConfig,
    route: Route,
    bench: BenchConfig,
    *,
    cache: Path | None = None,
    command: Command = worker_command,
) -> Answer:
    """Run a rung in a fresh process and classify how it ended."""
    request = Request(route.name, bench.device, bench, rung)
    kept = route.cache(cache, bench.device) if cache else {}
    cold = not kept or cache is None or not cache.exists() or not any(cache.iterdir())
    variables = {**kept, **environment(route, rung, bench)}
    with tempfile.TemporaryDirectory(prefix="scalecli-bench-") as name:
        folder = Path(name)
        asked, answered, log = folder / "request.json", folder / "answer.json", folder / "log"
        asked.write_text(request.to_json(), encoding="utf-8")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(asked, answered, request),
                env={**os.environ, **variables},
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
        answer = classify(code, answered, said, timeout=bench.timeout)
        return replace(answer, cold=cold, environment=variables)


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
        reason = f"{OUT_OF_MEMORY}: {last}"
    elif code == -signal.SIGKILL:
        reason = "killed by signal 9, most likely for memory"
    elif code < 0:
        reason = f"crashed with {signal.Signals(-code).name}: {last}"
    else:
        reason = f"ended with status {code} and no answer: {last}"
    return Answer("failed", reason)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started (loader processes, torchrun's children)."""
    for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
