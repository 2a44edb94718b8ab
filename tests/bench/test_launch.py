"""Whatever a worker does, its rung gets a status and the rest goes on."""

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scalecli.bench.config import BenchConfig, RungConfig, with_preset
from scalecli.bench.ladder import Rung
from scalecli.bench.launch import (
    QUICK_COMPILE,
    Command,
    environment,
    order,
    run_all,
    run_one,
    worker_command,
)
from scalecli.bench.records import Answer, Request
from scalecli.bench.routes import ROUTES

OK = 'open(sys.argv[2], "w").write(\'{"status": "ok", "samples_per_s": 5.0, "step_ms": [1, 2]}\')'


def fake(code: str) -> Command:
    def command(asked: Path, answered: Path, request: Request) -> Sequence[str]:
        return [sys.executable, "-c", f"import sys, os, time; {code}", str(asked), str(answered)]

    return command


def bench(timeout: float = 30, steps: int = 4, repeats: int = 1, seed: int = 0) -> BenchConfig:
    return with_preset(BenchConfig(timeout=timeout, steps=steps, repeats=repeats, seed=seed), "cpu")


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (OK, "ok", ""),
        (f"print('\\x00garbage {{]' * 1000); {OK}", "ok", ""),
        ("raise SystemExit('no such thing')", "failed", "status 1 and no answer: no such thing"),
        ("pass", "failed", "it said nothing"),
        ("os.abort()", "failed", "SIGABRT"),
        ("os.kill(os.getpid(), 9)", "failed", "signal 9"),
        ("raise MemoryError('cannot allocate memory')", "failed", "out of memory"),
        ("open(sys.argv[2], 'w').write('{]')", "failed", "answer is damaged"),
        ("open(sys.argv[2], 'w').write('[]')", "failed", "answer is damaged"),
        ("open(sys.argv[2], 'w').write('{\"status\": \"x\"}')", "failed", "answer is damaged"),
    ],
)
def test_classified(code: str, status: str, says: str) -> None:
    answer = run_one(RungConfig(), ROUTES["plain"], bench(), command=fake(code))
    assert answer.status == status
    assert says in answer.reason
    assert "\n" not in answer.reason


def test_a_hang_ends_and_is_not_repeated() -> None:
    outcomes = list(
        run_all(
            [Rung("hangs")],
            ROUTES["plain"],
            bench(timeout=0.5, repeats=3),
            command=fake("time.sleep(60)"),
        )
    )
    assert [o.answer.status for o in outcomes] == ["failed", "skipped", "skipped"]
    assert outcomes[0].answer.reason == "timed out after 0.5 s"


def test_a_bad_rung_leaves_the_rest_alone() -> None:
    code = (
        "import json; size = json.load(open(sys.argv[1]))['rung']['batch_size']\n"
        f"if size == 2: os.abort()\n{OK}"
    )
    rungs = [
        Rung("good"),
        Rung("bad", config=RungConfig(batch_size=2)),
        Rung("lazy", config=RungConfig(batches_per_execution=2)),
    ]
    outcomes = list(run_all(rungs, ROUTES["plain"], bench(repeats=2), command=fake(code)))
    found = sorted((o.rung, o.answer.status) for o in outcomes)
    assert found == [
        ("bad", "failed"),
        ("bad", "failed"),
        ("good", "ok"),
        ("good", "ok"),
        ("lazy", "unsupported"),
    ]


def test_the_environment_is_set_before_python_starts() -> None:
    code = f"assert os.environ['PLANTED'] == '7'; {OK}"
    rung = RungConfig(env={"PLANTED": "7"})
    assert run_one(rung, ROUTES["plain"], bench(), command=fake(code)).status == "ok"


def test_known_answers_are_not_measured_again(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'a').write('x'); {OK}"
    known = {("a", 0): Answer("ok", samples_per_s=9.0)}
    found = list(
        run_all([Rung("a")], ROUTES["plain"], bench(repeats=2), known=known, command=fake(code))
    )
    assert [o.answer.samples_per_s for o in found] == [9.0, 5.0]
    assert ran.read_text() == "x"


def test_the_first_process_finds_an_empty_compile_cache(tmp_path: Path) -> None:
    code = f"c = os.environ['TORCHINDUCTOR_CACHE_DIR']; os.makedirs(c + '/graph', exist_ok=1); {OK}"
    found = run_all(
        [Rung("a b")], ROUTES["plain"], bench(repeats=3), caches=tmp_path, command=fake(code)
    )
    assert [o.answer.cold for o in found] == [True, False, False]
    assert (tmp_path / "a-b" / "graph").is_dir()


def test_torchrun_starts_several_processes_and_machines() -> None:
    asked, answered = Path("q"), Path("a")

    def command(rung: RungConfig, shared: BenchConfig) -> list[str]:
        return worker_command(asked, answered, Request("plain", "cpu", shared, rung))[2:]

    worker = ["scalecli.bench.worker", "q", "a"]
    assert command(RungConfig(), BenchConfig()) == worker
    torchrun = "torch.distributed.run"
    assert command(RungConfig(nproc=2), BenchConfig()) == [
        torchrun, "--nproc-per-node=2", "--standalone", "-m", *worker,
    ]  # fmt: skip
    far = BenchConfig(nnodes=2, rdzv_endpoint="host:29400")
    assert command(RungConfig(nproc=4), far) == [
        torchrun, "--nproc-per-node=4", "--nnodes=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=host:29400", "-m", *worker,
    ]  # fmt: skip


def test_the_tiny_preset_compiles_quickly_on_xla_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PJRT_DEVICE", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    tiny = with_preset(BenchConfig(preset="tiny"), "xla")
    article = with_preset(BenchConfig(preset="article"), "xla")
    assert environment(ROUTES["xla"], RungConfig(), tiny).items() >= QUICK_COMPILE.items()
    assert "XLA_FLAGS" not in environment(ROUTES["xla"], RungConfig(), article)
    own = RungConfig(env={"XLA_FLAGS": "mine"})
    assert environment(ROUTES["xla"], own, tiny)["XLA_FLAGS"] == "mine"


def test_order_is_random_within_rounds() -> None:
    rungs = [Rung(str(i)) for i in range(6)]
    plan = order(rungs, 4, random.Random(1))
    assert [repeat for _, repeat in plan] == sorted([0, 1, 2, 3] * 6)
    rounds = [[r.name for r, k in plan if k == repeat] for repeat in range(4)]
    assert all(sorted(names) == list("012345") for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1
    assert plan == order(rungs, 4, random.Random(1))


@pytest.mark.parametrize("rung", [RungConfig(batch_size=4), RungConfig(batch_size=4, bf16=True)])
def test_a_real_run_on_cpu(rung: RungConfig) -> None:
    answer = run_one(rung, ROUTES["plain"], bench(timeout=120))
    check_measured(answer, steps=4)
    assert answer.precision == ("bfloat16 weights" if rung.bf16 else "float32")
    assert answer.compile_s is None


def test_unknown_models_are_one_line() -> None:
    settled = with_preset(BenchConfig(model="vit_tinny_patch16_224", timeout=120), "cpu")
    answer = run_one(RungConfig(), ROUTES["plain"], settled)
    assert answer.status == "failed"
    assert "did you mean 'vit_tiny_patch16_224'" in answer.reason


def check_measured(answer: Answer, *, steps: int) -> None:
    assert (answer.status, answer.reason) == ("ok", "")
    assert answer.samples_per_s is not None
    assert answer.samples_per_s > 0
    assert len(answer.step_ms) == steps
    assert answer.final_loss is not None
    assert answer.peak_memory_mb is not None
    assert answer.input_wait_share is None or 0 <= answer.input_wait_share <= 1
    assert "torch" in answer.versions
