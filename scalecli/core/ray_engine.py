"""Tasks on Ray: this machine, a server with several GPUs, or a cluster.

Ray schedules, retries after a lost worker and moves the data; here is only what one task is and
what its failures mean. Imported for ``--engine ray`` alone.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from scalecli.core.engine import EngineConfig, cpu_count, work
from scalecli.core.errors import ScalecliError, UsageError

Task = TypeVar("Task")

RETRIES = 3
"""How often a task whose worker died is tried again."""
STARTS = 2
"""Attempts to start Ray here: it gives itself 30 seconds, which a busy machine can miss."""
LOOK_SECONDS = 2.0
"""Time between two looks at the head."""
PATIENCE_SECONDS = 20.0
"""How long the head may be silent. Ray itself ends the whole process after 60, without a word
that a user could act on."""
_CONTINUE = "finished work is on disk: continue with --resume"


def run_on_ray(
    recipe: bytes,
    tasks: Iterator[Task],
    engine: EngineConfig,
    gpu: Callable[[Task], bool] | None = None,
) -> Iterator[tuple[Task, Any]]:
    """Yield ``(task, answer)`` as Ray finishes them; see :func:`scalecli.core.engine.run_prepared`.

    Raises:
        UsageError: Ray is not installed, or no cluster answers at the address.
        ScalecliError: the head is gone, or a task lost its worker time and again. Exceptions
            of the task pass through unchanged.
    """
    ray = _ray()
    _connect(ray, engine)
    head = _Head(ray)
    # max_calls=0: a GPU worker, too, is kept for the next task, with what it holds.
    remote = ray.remote(num_cpus=1, max_retries=RETRIES, max_calls=0)(work)
    on_gpu = remote.options(num_gpus=1) if ray.cluster_resources().get("GPU", 0) >= 1 else remote
    shared = ray.put(recipe)  # sent to each node once, not with every task
    waiting: dict[Any, Task] = {}
    try:
        while True:
            room = engine.workers or 2 * head.cores
            for task in itertools.islice(tasks, max(0, room - len(waiting))):
                chosen = on_gpu if gpu is not None and gpu(task) else remote
                waiting[chosen.remote(shared, task)] = task
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), timeout=LOOK_SECONDS)
            for reference in done:
                yield waiting.pop(reference), ray.get(reference)
            head.look()
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or ScalecliError(str(error))) from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise ScalecliError(
            f"a Ray worker died {RETRIES + 1} times on one task (killed, or out of memory); "
            f"{_CONTINUE}, with fewer --workers if memory ran out"
        ) from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ScalecliError(f"Ray is gone ({type(error).__name__}); {_CONTINUE}") from error


def _ray() -> Any:
    # Ray's core writes to stderr by itself when a node dies; our one line says it.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # The job describes itself to nobody, and its own devices are left visible.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray: not installed; pip install 'scalecli[ray]'") from error
    return ray


def _connect(ray: Any, engine: EngineConfig) -> None:
    if ray.is_initialized():
        return
    address = engine.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _start(ray, engine.workers or cpu_count())
        return
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        with _core_silent():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises whatever stands in its way
        first = _first_line(error)
        raise UsageError(f"--address {address}: no Ray cluster answers there: {first}") from error


def _start(ray: Any, cores: int) -> None:
    for attempt in range(STARTS):
        try:
            with _core_silent():
                ray.init(
                    address="local",
                    num_cpus=cores,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
        except Exception as error:  # a plain one, when the machine was too busy for its deadline
            ray.shutdown()
            if attempt == STARTS - 1:
                raise ScalecliError(
                    f"Ray could not start on this machine: {_first_line(error)}; "
                    "try again, or --engine local"
                ) from error
        else:
            return


@contextmanager
def _core_silent() -> Iterator[None]:
    """Ray's core says on stderr, past Python, that it has understood its log level."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


class _Head:
    """The cluster's head: how many cores it offers, and whether it still lives."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._looked = self._seen = time.monotonic()
        self.cores = self._count()

    def look(self) -> None:
        """Note new nodes.

        Raises:
            ScalecliError: nobody has answered for :data:`PATIENCE_SECONDS`.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            socket.create_connection(self._address, timeout=LOOK_SECONDS).close()
        except OSError as error:
            if now - self._seen > PATIENCE_SECONDS:
                raise ScalecliError(
                    f"the Ray head at {self._address[0]}:{self._address[1]} is gone; {_CONTINUE}"
                ) from error
        else:
            self._seen = now
            self.cores = self._count()

    def _count(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))
