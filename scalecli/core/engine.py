"""Independent tasks on several processes, results as they finish.

Each worker computes on one thread by default: for the small problems here, processes on all
cores beat threads inside each operation, and a result does not depend on how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from scalecli.core.errors import ScalecliError

Task = TypeVar("Task")
Answer = TypeVar("Answer")


def cpu_count() -> int:
    """Cores this process may use (containers and affinity considered)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(threads: int = 1) -> None:
    """Hold torch, BLAS and OpenMP of this process to ``threads`` threads.

    The variables serve libraries loaded later; the calls serve those already loaded.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch.set_num_threads(threads)
    threadpool_limits(threads)


def run_tasks(
    function: Callable[[Task], Answer], tasks: Sequence[Task], *, workers: int
) -> Iterator[tuple[Task, Answer]]:
    """Yield ``(task, function(task))`` in the order of completion.

    Args:
        function: a module-level function (it travels to the workers by name).
        tasks: picklable inputs; long ones should come first.
        workers: processes, at least 1.

    Raises:
        ScalecliError: a worker died (killed, out of memory). Exceptions of ``function`` pass
            through unchanged.
    """
    if not tasks:
        return
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(tasks)),
        mp_context=get_context("spawn"),
        initializer=limit_threads,
    )
    try:
        waiting = {pool.submit(function, task): task for task in tasks}
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise ScalecliError(
            "a worker process died (killed, or out of memory); finished work is on disk: "
            "continue with --resume, with fewer --workers if memory ran out"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
