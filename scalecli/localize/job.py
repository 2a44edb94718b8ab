"""A job over pictures in constant memory: decode ahead, look, write behind.

A :class:`Worker` holds the model and takes one picture at a time through three steps: read, look,
write. :func:`stream` overlaps them in threads; an actor on another machine may call
:meth:`Worker.process`. A picture's rows are given out only after all its files are on disk.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch

from scalecli.core.engine import cpu_count
from scalecli.core.files import slug
from scalecli.localize.drawing import Painter
from scalecli.localize.localizer import Broken, Decoded, Item, Localizer, Seen, Skipped
from scalecli.localize.rows import LocalizeRow


@dataclass(frozen=True)
class Done:
    """A picture whose files are on disk."""

    item: Item
    key: str
    rows: tuple[LocalizeRow, ...]


Outcome: TypeAlias = Skipped | Broken | Done


@dataclass(frozen=True)
class Worker:
    """Model and pen: all that one picture needs."""

    localizer: Localizer
    painter: Painter

    def write(self, seen: Seen) -> Done:
        """Save a picture's files; its rows."""
        return Done(seen.picture.item, seen.picture.key, self.painter.write(seen))

    def process(self, item: Item, done: Container[str] = ()) -> Outcome:
        """All three steps on one picture."""
        picture = self.localizer.read(item, done)
        if not isinstance(picture, Decoded):
            return picture
        return self.write(self.localizer.look([picture])[0])


def items_of(paths: Sequence[str]) -> list[Item]:
    """Pictures with a folder each for their files; a single one has the run's own folder.

    A folder is named after the file. Where several files share a name, each of theirs carries a
    hash of its path, so that no other picture decides what a folder is called.
    """
    if len(paths) == 1:
        return [Item(paths[0], "")]
    stems = [slug(os.path.splitext(os.path.basename(path))[0]) for path in paths]
    seen: dict[str, int] = {}
    for stem in stems:
        seen[stem.casefold()] = seen.get(stem.casefold(), 0) + 1
    return [
        Item(path, stem if seen[stem.casefold()] == 1 else f"{stem}-{_hash(path)}")
        for path, stem in zip(paths, stems, strict=True)
    ]


def stream(
    worker: Worker,
    items: Sequence[Item],
    *,
    done: Container[str] = (),
    threads: int = 0,
    batch: int = 1,
) -> Iterator[Outcome]:
    """Every picture's outcome, in order, with bounded memory whatever their number.

    Args:
        worker: model and pen.
        items: the pictures.
        done: keys whose rows are on disk.
        threads: that decode and write; 0 takes half of the cores. torch has the others, so that
            there are never more threads than cores.
        batch: pictures of one input size that pass together.
    """
    cores = cpu_count()
    threads = threads or max(1, cores // 2)
    alone = len(items) == 1
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="localize") as pool,
        _torch_threads(cores if alone else max(1, cores - threads)),
    ):
        try:
            yield from _Pipeline(worker, pool, done, threads, batch).run(items)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Pipeline:
    """Decoding ahead, writing behind; both queues are short, so memory is bounded."""

    def __init__(
        self,
        worker: Worker,
        pool: ThreadPoolExecutor,
        done: Container[str],
        threads: int,
        batch: int,
    ) -> None:
        self.worker = worker
        self.pool = pool
        self.done = done
        self.ahead = threads + batch
        self.batch = batch
        self.written: deque[Callable[[], Outcome]] = deque()
        self.waiting: list[Decoded] = []

    def run(self, items: Sequence[Item]) -> Iterator[Outcome]:
        reading: deque[Future[Decoded | Skipped | Broken]] = deque()
        coming = iter(items)
        while True:
            while len(reading) < self.ahead and (item := next(coming, None)) is not None:
                reading.append(self.pool.submit(self.worker.localizer.read, item, self.done))
            if not reading:
                break
            picture = reading.popleft().result()
            if not isinstance(picture, Decoded):
                self._flush()
                outcome = picture
                self.written.append(lambda outcome=outcome: outcome)  # type: ignore[misc]
            else:
                if self.waiting and self.waiting[0].tensor.shape != picture.tensor.shape:
                    self._flush()
                self.waiting.append(picture)
                if len(self.waiting) >= self.batch:
                    self._flush()
            while len(self.written) > self.ahead:
                yield self.written.popleft()()
        self._flush()
        while self.written:
            yield self.written.popleft()()

    def _flush(self) -> None:
        if self.waiting:
            seen = self.worker.localizer.look(self.waiting)
            self.waiting = []
            self.written += [self.pool.submit(self.worker.write, s).result for s in seen]


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
