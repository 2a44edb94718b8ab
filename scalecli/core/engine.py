"""Independent tasks on several processes or machines, results as they finish.

Each worker computes on one thread: for the small problems here, processes on all cores beat
threads inside each operation, and a result does not depend on how many workers there are, on
which engine runs them, or on the order in which they finish.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_any
from typing import Any, Literal, TypeVar

from scalecli.core.config import option
from scalecli.core.errors import ScalecliError

Task = TypeVar("Task")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class EngineConfig:
    """Where the work is done; a config whose work can be spread inherits these fields."""

    engine: Literal["local", "ray"] = option(
        "local", "What runs the work: local (processes here) or ray.", panel="Engine"
    )
    address: str | None = option(
        None,
        "Ray cluster to join: auto, HOST:PORT or ray://HOST:PORT; without it (and without "
        "RAY_ADDRESS) Ray starts on this machine.",
        panel="Engine",
    )
    workers: int = option(
        0,
        "Tasks at a time, each in a process of one thread; 0 means as many as suit the machine "
        "or cluster.",
        low=0,
        high=100_000,
        panel="Engine",
    )

    def __post_init__(self) -> None:
        if self.address is not None and self.engine != "ray":
            raise ValueError(f"--address {self.address}: is for --engine ray")


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
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(threads)
    if "torch" in sys.modules:  # it takes seconds to load, which many tasks can do without
        sys.modules["torch"].set_num_threads(threads)


def run_tasks(
    function: Callable[[Task], Answer],
    tasks: Iterable[Task],
    *,
    engine: EngineConfig,
    gpu: Callable[[Task], bool] | None = None,
) -> Iterator[tuple[Task, Answer]]:
    """Yield ``(task, function(task))`` in the order of completion.

    Args:
        function: a module-level function (it travels to the workers by name).
        tasks: picklable inputs, drawn only as workers become free, so that a stream of any
            length takes constant memory; long ones should come first.
        engine: where the work is done.
        gpu: which tasks need a GPU of their own; used by Ray where the cluster has any.

    Raises:
        ScalecliError: a worker died, the cluster is gone, or Ray is not installed. Exceptions
            of ``function`` pass through unchanged.
    """
    return run_prepared(functools.partial(_itself, function), tasks, engine=engine, gpu=gpu)


def run_prepared(
    prepare: Callable[[], Callable[[Task], Answer]],
    tasks: Iterable[Task],
    *,
    engine: EngineConfig,
    gpu: Callable[[Task], bool] | None = None,
) -> Iterator[tuple[Task, Answer]]:
    """:func:`run_tasks` with a function that is costly to make, such as one that holds a model.

    Args:
        prepare: called once in each worker process, returns the function; picklable, for
            example a ``functools.partial`` of a module-level function.
        tasks: as in :func:`run_tasks`.
        engine: as in :func:`run_tasks`.
        gpu: as in :func:`run_tasks`.
    """
    recipe, stream = pickle.dumps(prepare), iter(tasks)
    first = list(itertools.islice(stream, 1))
    if not first:
        return iter(())
    stream = itertools.chain(first, stream)
    if engine.engine == "ray":
        from scalecli.core.ray_engine import run_on_ray

        return run_on_ray(recipe, stream, engine, gpu)
    return _run_here(recipe, stream, engine.workers or cpu_count())


def work(recipe: bytes, task: Any) -> Any:
    """One task in a worker process; the function is made at the first one."""
    return _prepared(recipe)(task)


@functools.lru_cache(maxsize=1)
def _prepared(recipe: bytes) -> Callable[[Any], Any]:
    limit_threads()
    prepare: Callable[[], Callable[[Any], Any]] = pickle.loads(recipe)
    return prepare()


def _itself(function: Callable[[Task], Answer]) -> Callable[[Task], Answer]:
    return function


def _run_here(recipe: bytes, tasks: Iterator[Task], workers: int) -> Iterator[tuple[Task, Any]]:
    pool = ProcessPoolExecutor(
        max_workers=workers, mp_context=multiprocessing.get_context("spawn"), initializer=_started
    )
    waiting: dict[Future[Any], Task] = {}
    try:
        while True:
            # One spare task per worker, so that none waits for the next.
            for task in itertools.islice(tasks, 2 * workers - len(waiting)):
                waiting[pool.submit(work, recipe, task)] = task
            if not waiting:
                break
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise ScalecliError(
            "a worker process died (killed, or out of memory); finished work is on disk: "
            "continue with --resume, with fewer --workers if memory ran out"
        ) from error
    finally:
        # Ended early (interrupted, or one task failed), nobody waits for the tasks in flight.
        for child in multiprocessing.active_children() if waiting else ():
            child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _started() -> None:
    """Prepare a worker process: one thread, deaf to Ctrl-C, and gone when its parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads()


def _end_with_parent() -> None:
    # A worker waits on a queue whose both ends it holds: a killed parent would go unnoticed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)
