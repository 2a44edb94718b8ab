from __future__ import annotations

import os
import signal

import pytest

from scalecli.core.engine import cpu_count, run_tasks
from scalecli.core.errors import ScalecliError


def square(n: int) -> int:
    return n * n


def threads(_: int) -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def die(n: int) -> int:
    if n == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def fail(n: int) -> int:
    raise ValueError(f"task {n}")


def test_equals_serial() -> None:
    tasks = list(range(7))
    assert sorted(run_tasks(square, tasks, workers=2)) == [(n, square(n)) for n in tasks]


def test_nothing_to_do() -> None:
    assert list(run_tasks(square, [], workers=2)) == []


def test_workers_compute_on_one_thread() -> None:
    assert list(run_tasks(threads, [0], workers=1)) == [(0, (1, "1"))]


def test_killed_worker_is_one_line() -> None:
    with pytest.raises(ScalecliError, match=r"a worker process died.*--resume"):
        list(run_tasks(die, [1], workers=1))


def test_exceptions_pass_through() -> None:
    with pytest.raises(ValueError, match="task 3"):
        list(run_tasks(fail, [3], workers=1))


def test_cpu_count() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
