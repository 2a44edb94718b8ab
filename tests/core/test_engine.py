"""The engine: the same answers from any number of processes, here or on Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from scalecli.core.engine import EngineConfig, cpu_count, run_prepared, run_tasks
from scalecli.core.errors import ScalecliError, UsageError

ONE, TWO = EngineConfig(workers=1), EngineConfig(workers=2)


@pytest.fixture(scope="module")
def ray() -> Iterator[EngineConfig]:
    """A real local Ray with two cores, shared by this file; it is told that it has two GPUs."""
    module = pytest.importorskip("ray")
    module.init(
        address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield EngineConfig(engine="ray", workers=2)
    module.shutdown()


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> EngineConfig:
    if request.param == "local":
        return TWO
    config: EngineConfig = request.getfixturevalue("ray")
    return config


def square(n: int) -> int:
    return n * n


def threads(_: int) -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def die(n: int) -> int:
    if n == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def die_once(folder: str, n: int) -> int:
    mark = Path(folder) / "died"
    if n == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def fail(n: int) -> int:
    raise UsageError(f"task {n}")


def visible_gpus(n: int) -> str:
    time.sleep(0.5)
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def even(n: int) -> bool:
    return n % 2 == 0


def adder(folder: str, more: int) -> Callable[[int], int]:
    """A costly thing to make: it counts how often it was."""
    (Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return partial(int.__add__, more)


def test_equals_serial(engine: EngineConfig) -> None:
    tasks = list(range(7))
    assert sorted(run_tasks(square, tasks, engine=engine)) == [(n, square(n)) for n in tasks]


def test_nothing_to_do(engine: EngineConfig) -> None:
    assert list(run_tasks(square, [], engine=engine)) == []


def test_workers_compute_on_one_thread(engine: EngineConfig) -> None:
    assert list(run_tasks(threads, [0], engine=engine)) == [(0, (1, "1"))]


def test_exceptions_pass_through_as_they_were(engine: EngineConfig) -> None:
    with pytest.raises(UsageError) as caught:
        list(run_tasks(fail, [3], engine=engine))
    assert type(caught.value) is UsageError
    assert str(caught.value) == "task 3"


def test_each_worker_prepares_once(engine: EngineConfig, tmp_path: Path) -> None:
    prepare = partial(adder, str(tmp_path), 10)
    answers = dict(run_prepared(prepare, range(40), engine=engine))
    assert answers == {n: n + 10 for n in range(40)}
    made = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert len(made) == len(set(made)) <= 2


def test_a_stream_is_drawn_only_as_it_is_needed(engine: EngineConfig) -> None:
    drawn = 0

    def stream() -> Iterator[int]:
        nonlocal drawn
        for n in range(200):
            drawn += 1
            yield n

    for finished, _ in enumerate(run_tasks(square, stream(), engine=engine), start=1):
        assert drawn <= finished + 8
    assert drawn == 200


def test_a_killed_local_worker_is_one_line() -> None:
    with pytest.raises(ScalecliError, match=r"a worker process died.*--resume"):
        list(run_tasks(die, [1], engine=ONE))


def test_a_killed_ray_worker_costs_nothing_but_time(ray: EngineConfig, tmp_path: Path) -> None:
    answers = dict(run_tasks(partial(die_once, str(tmp_path)), range(6), engine=ray))
    assert answers == {n: n for n in range(6)}
    assert (tmp_path / "died").exists()


def test_a_ray_worker_that_always_dies_is_one_line(ray: EngineConfig) -> None:
    with pytest.raises(ScalecliError, match=r"a Ray worker died 4 times.*--resume") as caught:
        list(run_tasks(die, [1], engine=ray))
    assert "\n" not in str(caught.value)


def test_a_ray_task_that_needs_a_gpu_has_one_of_its_own(ray: EngineConfig) -> None:
    seen = dict(run_tasks(visible_gpus, range(8), engine=ray, gpu=even))
    assert {seen[n] for n in range(0, 8, 2)} <= {"0", "1"}
    assert {seen[n] for n in range(1, 8, 2)} <= {"", "0,1"}


_LINGER = """
import sys, time
sys.path.insert(0, {root!r})
from scalecli.core.engine import EngineConfig, run_tasks
from tests.core.test_engine import linger
if __name__ == "__main__":
    list(run_tasks(linger, [sys.argv[1]] * 2, engine=EngineConfig(workers=2)))
"""


def linger(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_LINGER.format(root=str(Path(__file__).parents[2])))
    folder = tmp_path / "pids"
    folder.mkdir()
    run = subprocess.Popen([sys.executable, str(script), str(folder)])
    _until(lambda: len(list(folder.iterdir())) == 2)
    run.kill()
    run.wait()
    pids = [int(path.name) for path in folder.iterdir()]
    _until(lambda: not any(_runs(pid) for pid in pids))


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        # A zombie that its new parent has not collected yet has ended all the same.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1"])
def test_an_address_without_a_cluster_is_one_line(address: str) -> None:
    code = (
        "from scalecli.core.engine import EngineConfig, run_tasks\n"
        "from scalecli.core.errors import UsageError\n"
        f"config = EngineConfig(engine='ray', address={address!r})\n"
        "try: list(run_tasks(abs, [1], engine=config))\n"
        "except UsageError as error: print(error)\n"
    )
    pytest.importorskip("ray")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.startswith(f"--address {address}: no Ray cluster answers there")
    assert answer.stdout.count("\n") == 1


def test_an_address_is_for_ray() -> None:
    with pytest.raises(ValueError, match="--engine ray"):
        EngineConfig(address="auto")


def test_cpu_count() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
