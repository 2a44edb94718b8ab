"""What the measuring loop of `scalecli bench-neuron` costs beside a bare loop of the same step."""

from __future__ import annotations

import gc
import time

import torch
import torch.nn.functional as F

from scalecli.bench.config import BenchConfig, RungConfig, with_preset
from scalecli.bench.records import Request
from scalecli.bench.worker import Training, prepare
from tests.benchmarks.timing import Comparison, Target, compare

STEPS = 10
CPU = torch.device("cpu")


class Idle(Training):
    """A training whose steps do nothing: what remains is the harness."""

    def step(self, batch: object) -> None:
        """Nothing."""


def _training() -> Training:
    bench = with_preset(BenchConfig(preset="tiny", data="resident"), "cpu")
    return prepare(Request("plain", "cpu", bench, RungConfig()), CPU)


def harness_seconds_per_step(steps: int = 10_000) -> float:
    """Seconds that the timed loop spends per step on everything but the step."""
    made = _training()
    idle = Idle(made.route, made.rung, made.device, made.model, made.optimizer, made.batches)
    batch, _ = idle.next()
    idle.timed(batch, steps)
    started = time.perf_counter()
    idle.timed(batch, steps)
    return (time.perf_counter() - started) / steps


def harness_overhead() -> list[Comparison]:
    """The tiny preset on one core: the timed block in turns with the same steps in a bare loop."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other are off by more than is sought
    made = _training()
    batch, _ = made.next()

    def bare() -> None:
        for _ in range(STEPS):
            images, labels = next(made.batches)
            made.optimizer.zero_grad()
            loss = F.cross_entropy(made.model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            made.optimizer.step()

    gc.freeze()  # collecting between 600 blocks would take longer than they do
    found = compare(
        f"bench-neuron, {STEPS} steps",
        lambda: made.timed(batch, STEPS),
        "a bare loop of the same step",
        bare,
        Target("cost", 1.01),
        turns=301,  # one turn is off by tenths; their median is what can tell a hundredth
    )
    gc.unfreeze()
    torch.set_num_threads(threads)
    share = harness_seconds_per_step() / (found.peer_s / STEPS)
    found.notes.append(f"the loop alone, around a step that does nothing: {share:.3%} of a step")
    return [found]


if __name__ == "__main__":
    print(harness_overhead()[0])
