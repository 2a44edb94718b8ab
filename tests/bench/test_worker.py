"""What happens inside a measuring process: warm-up, precision, several processes, memory."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scalecli.bench.config import BenchConfig, RungConfig, with_preset
from scalecli.bench.launch import environment, run_one
from scalecli.bench.records import Request
from scalecli.bench.routes import ROUTES
from scalecli.bench.routes.base import Counters
from scalecli.bench.routes.plain import Plain
from scalecli.bench.worker import Training, prepare

CPU = torch.device("cpu")


def bench(device: str = "cpu", **settings: Any) -> BenchConfig:
    return with_preset(BenchConfig(**{"steps": 4, "timeout": 500, **settings}), device)


class Lazy(Plain):
    """Compiles in the executions that are told, one graph each."""

    def __init__(self, compiling: set[int]) -> None:
        self.compiling = compiling
        self.executions = 0

    def sync(self) -> None:
        self.executions += 1

    def counters(self) -> Counters:
        return Counters(len(self.compiling & set(range(self.executions))))


class Steps(Training):
    """A training whose steps cost nothing."""

    def step(self, batch: Any) -> None:
        return


def training(compiling: set[int], n: int) -> Steps:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    endless: Iterator[Any] = itertools.count()
    rung = RungConfig(batches_per_execution=n)
    return Steps(Lazy(compiling), rung, CPU, model, optimizer, endless)


@pytest.mark.parametrize(("compiling", "executions"), [(set(), 3), ({0, 1}, 4), ({0, 1, 3}, 6)])
def test_warm_up_lasts_until_two_executions_compiled_nothing(
    compiling: set[int], executions: int
) -> None:
    _, done = training(compiling, 1).warm_up(100, bool)
    assert len(done) == executions
    assert [i for i, e in enumerate(done) if e.compilations] == sorted(compiling)


def test_unrolled_warm_up_covers_whole_executions() -> None:
    _, done = training({0, 1}, 10).warm_up(100, bool)
    assert [e.steps for e in done] == [9, 10, 10, 10]
    _, done = training(set(), 10).warm_up(100, bool)
    assert [e.steps for e in done] == [9, 10, 10]  # never fewer than 2N + 1 steps


def test_warm_up_gives_up_and_waits_for_all_processes() -> None:
    with pytest.raises(RuntimeError, match="had not stopped after 5 steps"):
        training(set(range(100)), 1).warm_up(5, bool)
    votes = iter([False] * 6)
    _, done = training(set(), 1).warm_up(100, lambda mine: next(votes, mine))
    assert len(done) == 7


class Products(TorchDispatchMode):
    """Notes the types of the factors of every matrix product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.types |= {a.dtype for a in args if isinstance(a, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("rung", "expected"),
    [
        (RungConfig(batch_size=2), torch.float32),
        (RungConfig(batch_size=2, bf16=True), torch.bfloat16),
        (RungConfig(batch_size=2, amp=True), torch.bfloat16),
    ],
)
def test_matrix_products_have_the_asked_precision(rung: RungConfig, expected: torch.dtype) -> None:
    made = prepare(Request("plain", "cpu", bench(), rung), CPU)
    batch, _ = made.next()
    with Products() as seen:
        made.step(batch)
    assert seen.types == {expected}
    weights = {p.dtype for p in made.model.parameters()}
    assert weights == {torch.bfloat16 if rung.bf16 else torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rung", "expected"),
    [
        (RungConfig(batch_size=2), {"f32"}),
        (RungConfig(batch_size=2, bf16=True), {"bf16"}),
        (RungConfig(batch_size=2, amp=True), {"bf16"}),
    ],
)
def test_matrix_products_of_xla_have_the_asked_precision(
    rung: RungConfig, expected: set[str], tmp_path: Path
) -> None:
    code = """
        import json, re, sys
        from pathlib import Path
        import torch_xla
        from scalecli.bench.records import read_request
        from scalecli.bench.worker import prepare
        request = read_request(Path(sys.argv[1]))
        device = torch_xla.device()
        made = prepare(request, device)
        batch, _ = made.next()
        made.step(batch)
        text = torch_xla._XLAC._get_xla_tensors_hlo([made.loss])
        found = re.findall(r"(\\w+)\\[[^\\]]*\\]\\S* dot\\(", text)
        Path(sys.argv[2]).write_text(json.dumps(sorted(set(found))))
        import os; os._exit(0)
    """
    asked, found = tmp_path / "request.json", tmp_path / "found.json"
    settled = bench("xla")
    asked.write_text(Request("xla", "xla", settled, rung).to_json())
    variables = environment(ROUTES["xla"], rung, settled)
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(asked), str(found)],
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        timeout=400,
    )
    assert set(json.loads(found.read_text())) == expected


@pytest.mark.slow
def test_lazy_tensors_compile_twice_and_execute_once_per_step() -> None:
    answer = run_one(RungConfig(batch_size=2), ROUTES["xla"], bench("xla"))
    assert (answer.status, answer.reason) == ("ok", "")
    # The second graph is the one in which Adam's state exists already.
    assert answer.compilations == 2
    assert [e.compilations for e in answer.warmup[:3]] == [1, 1, 0]
    assert answer.executions == 4
    assert answer.compile_s is not None
    assert answer.compile_s > 0
    assert answer.transfer_s is not None


@pytest.mark.slow
def test_unrolled_steps_execute_once_per_window() -> None:
    rung = RungConfig(batch_size=2, batches_per_execution=2)
    answer = run_one(rung, ROUTES["xla"], bench("xla"))
    assert (answer.status, answer.reason) == ("ok", "")
    assert answer.executions == 2
    assert len(answer.step_ms) == 2
    assert [e.steps for e in answer.warmup][:3] == [1, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("route", ["plain", "xla"])
def test_compiled_models_train(route: str) -> None:
    device = "cpu" if route == "plain" else "xla"
    backend = "inductor" if route == "plain" else "openxla"
    rung = RungConfig(batch_size=2, compile=backend)
    if reason := ROUTES[route].unsupported(rung, device):
        pytest.skip(reason)
    answer = run_one(rung, ROUTES[route], bench(device))
    assert (answer.status, answer.reason) == ("ok", "")
    assert answer.compilations
    assert answer.compile_s is not None
    assert answer.compile_s > 0


@pytest.mark.slow
def test_two_processes_give_twice_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    answer = run_one(RungConfig(batch_size=2, nproc=2), ROUTES["plain"], bench())
    assert (answer.status, answer.reason, answer.world_size) == ("ok", "", 2)
    assert answer.samples_per_s is not None
    seconds = sum(answer.step_ms) / 1e3
    assert answer.samples_per_s == pytest.approx(2 * 2 * 4 / seconds, rel=1e-3)


@pytest.mark.slow
def test_two_processes_hold_the_same_weights(tmp_path: Path) -> None:
    """DDP averages gradients: ranks on different data end with one model."""
    code = """
        import sys
        from pathlib import Path
        import torch
        from scalecli.bench.records import read_request
        from scalecli.bench.worker import _join, prepare
        device = torch.device("cpu")
        world = _join(device)
        made = prepare(read_request(Path(sys.argv[1])), device, world)
        for _ in range(3):
            batch, _ = made.next()
            made.step((batch[0] + torch.distributed.get_rank(), batch[1]))
        sums = [None] * world
        own = float(sum(p.double().abs().sum() for p in made.model.parameters()))
        torch.distributed.all_gather_object(sums, own)
        assert world == 2 and sums[0] == sums[1], sums
        torch.distributed.destroy_process_group()
    """
    script, asked = tmp_path / "ranks.py", tmp_path / "request.json"
    script.write_text(textwrap.dedent(code))
    rung = RungConfig(batch_size=2, nproc=2)
    asked.write_text(Request("plain", "cpu", bench(), rung).to_json())
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, "-m", *command, str(script), str(asked)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_seconds_decide_how_many_steps_are_timed() -> None:
    answer = run_one(RungConfig(batch_size=2), ROUTES["plain"], bench(steps=1, seconds=1.0))
    assert answer.status == "ok"
    assert len(answer.step_ms) > 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_a_batch_beyond_the_memory_is_out_of_memory() -> None:
    rung = RungConfig(batch_size=100_000)
    answer = run_one(rung, ROUTES["plain"], bench(memory_limit_mb=1500))
    assert answer.status == "failed"
    assert answer.reason.startswith("out of memory")
