"""A folder of pictures on several processes or machines: each loads the model once.

Files and keys are those of :func:`scalecli.localize.job.stream`; only who computes differs. A
cluster's machines see the pictures and the output folder under the paths of this one.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalecli.core.engine import run_prepared
from scalecli.core.errors import UsageError
from scalecli.core.results import keys_on_disk
from scalecli.localize.config import LocalizeConfig
from scalecli.localize.drawing import Painter
from scalecli.localize.job import Outcome, Worker
from scalecli.localize.load import load_encoder
from scalecli.localize.localizer import Item, Localizer

Place = tuple[int, Item]
"""A picture with its number in the request."""


@dataclass(frozen=True)
class Recipe:
    """All that another process needs to make its :class:`~scalecli.localize.job.Worker`."""

    config: LocalizeConfig
    prompts: tuple[str, ...]
    out: Path
    log: Path
    """The ``rows.jsonl`` whose pictures are done."""
    origin: Mapping[str, str]
    folder: str
    """Where relative paths begin."""

    def worker(self) -> Callable[[Place], Outcome]:
        """Load the model; the function that does one picture."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: not on this machine of the cluster; run in a folder that all of "
                "them share"
            ) from error
        warnings.filterwarnings("ignore", module=r"PIL\.")
        encoder = load_encoder(self.config)
        painter = Painter(
            self.config, self.prompts, model=encoder.name, out=self.out, origin=self.origin
        )
        worker = Worker(Localizer(self.config, encoder, self.prompts), painter)
        done = keys_on_disk(self.log)
        return lambda place: worker.process(place[1], done)


def spread(
    config: LocalizeConfig, worker: Worker, items: Sequence[Item], *, log: Path
) -> Iterator[tuple[int, Outcome]]:
    """Every picture's number and outcome, in the order of completion.

    Args:
        config: with the engine and its number of workers.
        worker: this process's own, as the pattern of the others.
        items: the pictures.
        log: the ``rows.jsonl`` whose pictures are done.
    """
    recipe = Recipe(
        replace(config, words=(), images=()),  # a glob may have become a million words
        worker.painter.prompts,
        worker.painter.out.resolve(),
        log.resolve(),
        worker.painter.origin,
        os.getcwd(),
    )
    on_gpu = worker.localizer.encoder.device.type == "cuda"
    answers = run_prepared(
        functools.partial(Recipe.worker, recipe),
        enumerate(items),
        engine=config,
        gpu=_always if on_gpu else None,
    )
    for place, outcome in answers:
        yield place[0], outcome


def _always(_place: Place) -> bool:
    return True
