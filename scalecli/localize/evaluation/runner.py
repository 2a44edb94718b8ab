"""The work of a run: every image through every method of every model, once.

An image is decoded once, cut once per model, and its texts were encoded when the run began; the
methods of a model share what they can of its image pass. What is on disk is not computed again:
each (image, model, method) is keyed by all that its row depends on.
"""

from __future__ import annotations

import functools
import itertools
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scalecli.core.engine import cpu_count, limit_threads, run_prepared
from scalecli.core.errors import ScalecliError
from scalecli.core.results import cell_key, jsonable
from scalecli.localize.encoder import Encoder
from scalecli.localize.evaluation.causal import curves
from scalecli.localize.evaluation.config import EvalConfig, Variant
from scalecli.localize.evaluation.contenders import Contender, Problem, contenders, open_problem
from scalecli.localize.evaluation.datasets import Sample
from scalecli.localize.evaluation.masks import Labels
from scalecli.localize.evaluation.metrics import confusion, sparse
from scalecli.localize.evaluation.protocol import Protocol
from scalecli.localize.evaluation.rows import ImageRow
from scalecli.localize.evaluation.scoring import Scored, score, truth
from scalecli.localize.evaluation.views import Views, assemble, cut

KIND = "localize-eval/1"
"""Part of every key; the number goes up when rows come to mean something else."""
AHEAD = 4
"""Images decoded before they are needed."""
SOON = 30.0
"""Seconds of work for which starting worker processes, each with its models, does not pay."""


class Evaluator:
    """Scores images; one per worker process.

    Args:
        config: the run.
        problem: what :func:`open_problem` gives; made here when None.
        models: what :func:`contenders` gives; loaded here when None.
    """

    def __init__(
        self,
        config: EvalConfig,
        problem: Problem | None = None,
        models: Sequence[Contender] | None = None,
    ) -> None:
        self.config = config
        self.problem = problem or open_problem(config)
        self.models = models if models is not None else contenders(config, self.problem)[0]
        self._weighed: tuple[Views, Tensor] | None = None
        common = [
            jsonable(self.problem.protocol), self.problem.vocabulary, config.points, config.seed,
            config.deletion, config.precision,
        ]  # fmt: skip
        self._ways = {
            cell_key(KIND, [common, c.encoder.fingerprint, v.method, v.options]): (number, v)
            for number, c in enumerate(self.models)
            for v in c.variants
        }

    def keys(self, index: int) -> dict[str, tuple[int, Variant]]:
        """Every row of an image: key → (number of the model, method).

        A key is the identity of all that the row's numbers depend on.
        """
        item = self.problem.dataset.items[index]
        return {cell_key(way, [item.name, item.stamp]): to for way, to in self._ways.items()}

    def __call__(self, task: Task) -> list[tuple[str, ImageRow]]:
        """The rows of one image that are asked for, by key."""
        return self.rows(task, self.problem.dataset.items[task.index].read())

    def rows(self, task: Task, sample: Sample) -> list[tuple[str, ImageRow]]:
        """As :meth:`__call__`, for an image already decoded."""
        item = self.problem.dataset.items[task.index]
        vocabulary = self.problem.vocabulary
        labels = truth(sample.labels, vocabulary)
        wanted = self.keys(task.index)
        found = []
        for number, contender in enumerate(self.models):
            variants = {
                key: variant
                for key, (of, variant) in wanted.items()
                if of == number and key in task.keys
            }
            if not variants:
                continue
            views = self.views(contender, sample)
            maps = compute_maps(contender, list(variants.values()), views, self.config.batch)
            for key, (variant, (heat, seconds)) in zip(
                variants, zip(variants.values(), maps, strict=True), strict=True
            ):
                # The same points for every method: they depend on the image and the seed alone.
                rng = np.random.default_rng([self.config.seed, zlib.crc32(item.name.encode())])
                scored = self.score(contender, variant, heat, views, sample.labels, rng=rng)
                matrix = confusion(labels, scored.predicted, len(vocabulary.classes))
                row = ImageRow(
                    image=item.name,
                    model=contender.encoder.name,
                    method=variant.label,
                    seconds=seconds,
                    confusion=sparse(matrix),
                    classes=tuple(one.index for one in scored.located),
                    hits=tuple(one.hit for one in scored.located),
                    contrasts=tuple(one.contrast for one in scored.located),
                    points=tuple(count for one in scored.located for count in one.points),
                )
                if self.config.deletion:
                    row = self._causal(row, contender, heat, views, sample)
                found.append((key, row))
        return found

    def views(self, contender: Contender, sample: Sample) -> Views:
        """The image as one model sees it."""
        encoder = contender.encoder
        return cut(sample.image, self.problem.protocol, encoder.input, encoder.subject.patch)

    def weighted(self, contender: Contender, variant: Variant) -> bool:
        """Whether the model's decision on the whole image helps the method's maps to compete."""
        normalise = self.problem.protocol.normalise
        method = contender.encoder.methods[variant.method]
        return normalise == "weighted" or (normalise == "auto" and not method.comparable)

    def score(
        self,
        contender: Contender,
        variant: Variant,
        maps: Tensor,
        views: Views,
        labels: Labels,
        *,
        rng: np.random.Generator,
    ) -> Scored:
        """One image under one method, at its original resolution."""
        protocol = self.problem.protocol
        weighted = self.weighted(contender, variant)
        return score(
            maps,
            views,
            labels,
            self.problem.vocabulary,
            protocol,
            logit_scale=protocol.logit_scale or contender.logit_scale,
            weights=self._weights(contender, views) if weighted else None,
            points=self.config.points,
            rng=rng,
        )

    def _weights(self, contender: Contender, views: Views) -> Tensor:
        """Probability [P] that the model as a whole gives every prompt, the mean over views."""
        if self._weighed is None or self._weighed[0] is not views:  # once for all methods
            scale = self.problem.protocol.logit_scale or contender.logit_scale
            scores = contender.encoder.scores(views.pixels, contender.text) * scale
            self._weighed = views, scores.softmax(dim=-1).mean(dim=0)
        return self._weighed[1]

    def _causal(
        self, row: ImageRow, contender: Contender, maps: Tensor, views: Views, sample: Sample
    ) -> ImageRow:
        encoder = contender.encoder
        whole = cut(sample.image, Protocol(), encoder.input, encoder.subject.patch).pixels
        spans = dict(self.problem.vocabulary.groups())
        areas = []
        for index in row.classes:
            heat = assemble(maps[:, spans[index]], views).amax(dim=0)
            found = curves(
                encoder, whole, heat, contender.text, spans[index], steps=self.config.deletion
            )
            areas.append(found.areas)
        gone, come = (tuple(a[i] for a in areas) for i in (0, 1))
        return replace(row, deletions=gone, insertions=come)


@dataclass(frozen=True)
class Task:
    """One image and the rows of it that are not on disk."""

    index: int
    keys: frozenset[str]


def missing(evaluator: Evaluator, done: Mapping[str, object]) -> Iterator[Task]:
    """What is left to do, in the dataset's order."""
    for index in range(len(evaluator.problem.dataset.items)):
        keys = frozenset(key for key in evaluator.keys(index) if key not in done)
        if keys:
            yield Task(index, keys)


def compute_maps(
    contender: Contender, variants: Sequence[Variant], views: Views, batch: int
) -> list[tuple[Tensor, float]]:
    """Maps [V, P, gh, gw] and seconds of every method, a batch of views at a time."""
    encoder = contender.encoder
    parts: list[list[Tensor]] = [[] for _ in variants]
    seconds = [0.0] * len(variants)
    for start in range(0, len(views.pixels), batch):
        pixels = views.pixels[start : start + batch].to(encoder.device, encoder.dtype)
        with encoder.shared(pixels):
            for i, variant in enumerate(variants):
                began = time.perf_counter()
                maps = encoder.maps(variant.method, pixels, contender.text, **variant.options)
                _wait(encoder)
                seconds[i] += time.perf_counter() - began
                if not torch.isfinite(maps).all():
                    raise ScalecliError(
                        f"{variant.label} of {encoder.name}: the map holds NaN or infinity; "
                        "try --precision fp32"
                    )
                parts[i].append(maps)
    return [(torch.cat(maps), spent) for maps, spent in zip(parts, seconds, strict=True)]


def _wait(encoder: Encoder) -> None:
    if encoder.device.type == "cuda":
        torch.cuda.synchronize(encoder.device)


def evaluate(
    evaluator: Evaluator, tasks: Iterable[Task], *, expected: float | None = None
) -> Iterator[list[tuple[str, ImageRow]]]:
    """The rows of every task, as they finish.

    On a GPU, with one worker, or when it is soon done, the images pass through this process,
    decoded ahead by threads; otherwise through worker processes of one thread each, whose results
    are the same.

    Args:
        evaluator: the run.
        tasks: what is left of it.
        expected: seconds that one worker will need, if known.

    Raises:
        ScalecliError: an image or mask is unusable; it is named.
    """
    config = evaluator.config
    on_cpu = all(c.encoder.device.type == "cpu" for c in evaluator.models)
    soon = expected is not None and expected < SOON
    workers = config.workers or (cpu_count() if on_cpu and not soon else 1)
    if config.engine == "local" and workers == 1:
        yield from _here(evaluator, tasks, one_thread=on_cpu)
        return
    prepare = functools.partial(Evaluator, config)
    engine = replace(config, workers=workers if config.engine == "local" else config.workers)
    gpu = None if on_cpu else _always
    for _task, rows in run_prepared(prepare, tasks, engine=engine, gpu=gpu):
        yield rows


def _always(_task: Task) -> bool:
    return True


def _here(
    evaluator: Evaluator, tasks: Iterable[Task], *, one_thread: bool
) -> Iterator[list[tuple[str, ImageRow]]]:
    if one_thread:
        limit_threads()
    items = evaluator.problem.dataset.items
    stream = iter(tasks)
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            (task, pool.submit(items[task.index].read)) for task in itertools.islice(stream, AHEAD)
        ]
        while waiting:
            task, sample = waiting.pop(0)
            following = next(stream, None)
            if following is not None:
                waiting.append((following, pool.submit(items[following.index].read)))
            yield evaluator.rows(task, sample.result())
