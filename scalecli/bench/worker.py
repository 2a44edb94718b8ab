"""One rung, once, in a process of its own: ``python -m scalecli.bench.worker REQUEST ANSWER``.

The environment is set by the launcher before this process starts, since torch-xla and neuronx-cc
read theirs at import. The answer goes into a file, whatever libraries print on stdout.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalecli.bench.config import BenchConfig, RungConfig
from scalecli.bench.records import Answer, Execution, Request, read_request
from scalecli.bench.routes import ROUTES
from scalecli.bench.routes.base import Route
from scalecli.bench.windows import ends_window
from scalecli.core.files import write_text
from scalecli.core.results import jsonable, versions

if TYPE_CHECKING:
    import torch
    from torch import nn

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "RESOURCE_EXHAUSTED",
    "std::bad_alloc",
    "MemoryError",
)
"""Texts by which allocators of all routes say that they failed."""


def is_out_of_memory(text: str) -> bool:
    """Whether an error's text speaks of memory."""
    return any(sign.lower() in text.lower() for sign in OUT_OF_MEMORY)


@dataclass
class Training:
    """A training loop that can be halted between any two executions."""

    route: Route
    rung: RungConfig
    device: torch.device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[Any]
    call: int = 0
    loss: torch.Tensor | None = None
    waited_s: float = 0.0
    waited_calls: int = 0

    def next(self) -> tuple[Any, bool]:
        """The next batch, and whether getting it ended an execution."""
        end = ends_window(self.call, self.rung.batches_per_execution)
        started = time.perf_counter()
        batch = next(self.batches)
        if self.route.waits_in_next(end):
            self.waited_s += time.perf_counter() - started
            self.waited_calls += 1
        self.call += 1
        return batch, end

    def step(self, batch: Any) -> None:
        """Forward, backward, update; asks the device for nothing back."""
        import torch.nn.functional as F

        images, labels = batch
        if self.route.weights_bf16(self.rung):
            images = images.bfloat16()
        self.optimizer.zero_grad()
        with self.route.autocast(self.rung, self.device):
            loss = F.cross_entropy(self.model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.route.step(self.optimizer)
        self.loss = loss.detach()

    def warm_up(self, most: int, agree: Callable[[bool], bool]) -> tuple[Any, list[Execution]]:
        """Train until two whole executions compiled nothing; never fewer than 2N + 1 steps.

        Args:
            most: steps after which to give up.
            agree: whether all processes say yes.

        Returns:
            The next batch, at the start of an execution, and the executions so far.
        """
        n = self.rung.batches_per_execution
        done: list[Execution] = []
        flat, compiled = 0, self.route.counters().compilations
        steps, started = 0, time.perf_counter()
        while True:
            batch, end = self.next()
            if end and steps:
                self.route.sync()
                now = self.route.counters().compilations
                seconds = time.perf_counter() - started
                done.append(Execution(steps, 1e3 * seconds / steps, now - compiled))
                flat = flat + 1 if now == compiled else 0
                compiled, total = now, self.call - 1
                if agree(total >= 2 * n + 1 and flat >= 2):
                    return batch, done
                if total >= most:
                    raise RuntimeError(f"compilation had not stopped after {total} steps")
                steps, started = 0, time.perf_counter()
            self.step(batch)
            steps += 1

    def timed(self, batch: Any, steps: int) -> tuple[float, list[float]]:
        """Wall seconds of ``steps`` steps (whole executions), and seconds of each execution.

        The device is waited for at both ends only; the split into executions is the host's.
        """
        self.waited_s, self.waited_calls = 0.0, 0
        self.route.sync()
        cuts = [time.perf_counter()]
        for _ in range(steps):
            self.step(batch)
            batch, end = self.next()
            if end:
                cuts.append(time.perf_counter())
        self.route.sync()
        cuts[-1] = time.perf_counter()
        return cuts[-1] - cuts[0], [b - a for a, b in itertools.pairwise(cuts)]


def run(request: Request) -> Answer:
    """Measure the rung in this process.

    Raises:
        Exception: whatever the route, the model or the device raise.
    """
    import torch

    if os.environ.get("NEURON_EXTRACT_GRAPHS_ONLY"):
        return Answer("failed", "NEURON_EXTRACT_GRAPHS_ONLY is set: stubs run, nothing to time")
    route, rung, bench = ROUTES[request.route], request.rung, request.bench
    device = route.device(request.device)
    world = _join(device)
    training = prepare(request, device, world)

    batch, warmup = training.warm_up(bench.max_warmup, _agreement(device, world))
    before = route.counters()
    n = rung.batches_per_execution
    steps = -(-_steps(bench, warmup, device, world) // n) * n
    if world > 1:
        torch.distributed.barrier()
    wall_s, windows_s = training.timed(batch, steps)
    after = route.counters()

    if after.compilations != before.compilations:
        return Answer("failed", "a compilation landed inside the timed block; repeat the run")
    loss = float("nan") if training.loss is None else float(training.loss.float().item())
    answer = Answer(
        "ok",
        samples_per_s=world * rung.batch_size * steps / wall_s,
        step_ms=tuple(1e3 * s / n for s in windows_s),
        warmup=tuple(warmup),
        compile_s=_compile_s(rung, after.compile_s, warmup, wall_s / steps),
        compilations=after.compilations,
        executions=_difference(after.executions, before.executions),
        transfer_s=_difference(after.transfer_s, before.transfer_s),
        input_wait_share=_wait_share(training, steps, wall_s),
        final_loss=loss,
        peak_memory_mb=route.peak_memory_mb(device),
        world_size=world,
        precision=route.precision(rung),
        device_name=route.device_name(device),
        versions=versions(*route.packages),
    )
    if not math.isfinite(loss):
        return replace(answer, status="failed", reason=f"the loss became {loss}", final_loss=None)
    return answer


def _join(device: torch.device) -> int:
    """Join the process group when started by torchrun; the number of processes."""
    import torch

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        if device.type == "xla":
            torch.distributed.init_process_group("xla", init_method="xla://")
        else:
            backend = {"cuda": "nccl", "cpu": "gloo"}.get(device.type)
            torch.distributed.init_process_group(backend)
        world = torch.distributed.get_world_size()
    return world


def _agreement(device: torch.device, world: int) -> Callable[[bool], bool]:
    """Whether all processes say yes: one that stopped alone would leave the others waiting.

    XLA's processes record the same graphs, so they decide alike without asking each other (which
    would compile one graph more).
    """
    if world == 1 or device.type == "xla":
        return bool
    import torch

    def agree(mine: bool) -> bool:
        votes = torch.tensor(int(mine), device=device)
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MIN)
        return bool(votes.item())

    return agree


def _steps(
    bench: BenchConfig, warmup: Sequence[Execution], device: torch.device, world: int
) -> int:
    """Steps to time: as given, or as many as the last warm-up execution says fill the seconds."""
    if bench.seconds is None:
        return bench.steps
    steps = max(1, round(1e3 * bench.seconds / warmup[-1].ms))
    if world > 1:
        import torch

        shared = torch.tensor(steps, device=device)
        torch.distributed.broadcast(shared, 0)
        steps = int(shared.item())
    return steps


def prepare(request: Request, device: torch.device, world: int = 1) -> Training:
    """Model, optimiser and loader on ``device``, of one among ``world`` processes."""
    import torch

    from scalecli.bench.data import batches
    from scalecli.bench.models import build

    route, bench, rung = ROUTES[request.route], request.bench, request.rung
    torch.manual_seed(bench.seed)
    model: Any = build(bench).train().to(device)
    if route.weights_bf16(rung):
        model = model.bfloat16()
    optimizer = torch.optim.Adam(model.parameters())
    if world > 1 and device.type != "xla":
        ids = [device.index] if device.type == "cuda" else None
        model = torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)
    if rung.compile is not None:
        model = torch.compile(model, backend=rung.compile)
    loader = batches(bench, rung, pin=device.type == "cuda")
    if bench.data == "resident":
        stream = _resident(route, rung, next(iter(loader)), device)
    else:
        stream = route.loader(loader, device, rung)
    return Training(route, rung, device, model, optimizer, stream)


def _resident(route: Route, rung: RungConfig, batch: Any, device: torch.device) -> Iterator[Any]:
    """One batch for ever, ending executions where the loader would."""
    batch = [tensor.to(device) for tensor in batch]
    call = 0
    while True:
        if ends_window(call, rung.batches_per_execution):
            route.flush()
        yield batch
        call += 1


def _compile_s(
    rung: RungConfig, counted: float | None, warmup: Sequence[Execution], steady_s: float
) -> float | None:
    """Seconds of compilation: counted, or what compiling executions took beyond steady ones."""
    if counted is not None or rung.compile is None:
        return counted
    return sum(max(0.0, e.steps * (e.ms / 1e3 - steady_s)) for e in warmup if e.compilations)


def _wait_share(training: Training, steps: int, wall_s: float) -> float | None:
    """Share of the time waiting for input, extrapolated from the calls that tell it apart."""
    if not training.waited_calls:
        return None
    return min(1.0, training.waited_s / training.waited_calls * steps / wall_s)


def _difference(after: Any, before: Any) -> Any:
    return None if after is None or before is None else after - before


def _limit(bench: BenchConfig) -> None:
    """End by ourselves when the launcher cannot end us, and stay within the memory given."""
    faulthandler.dump_traceback_later(bench.timeout + 10, exit=True)
    if bench.memory_limit_mb is not None:
        import resource

        most = bench.memory_limit_mb * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main(arguments: Sequence[str]) -> None:
    """Answer the request in the first file with the second."""
    request_path, answer_path = map(Path, arguments)
    try:
        request = read_request(request_path)
        _limit(request.bench)
        answer = run(request)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        kind = "out of memory: " if is_out_of_memory(text) else ""
        answer = Answer("failed", kind + text[:500])
    # The first process of every machine: each machine's launcher reads its own file.
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        write_text(answer_path, json.dumps(jsonable(answer)))
    sys.stdout.flush()
    sys.stderr.flush()
    # Prefetching threads and loader processes of an endless stream would hold the exit up.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
