"""`scalecli localize train-shapes`: train the shapes CLIP anew."""

from __future__ import annotations

import typer

from scalecli.cli.options import RunFlags, command
from scalecli.core.config import from_mapping, to_dict
from scalecli.core.results import jsonable, versions
from scalecli.localize.shapes.config import TrainShapesConfig

PACKAGES = ("torch", "open_clip_torch", "numpy", "pillow", "safetensors")
FINAL_SCENES = 1_000
"""Held-out scenes behind the accuracies of the record."""


def register(app: typer.Typer) -> None:
    """Add the command to the group of `scalecli localize`."""
    command(app, "train-shapes", TrainShapesConfig)(train_shapes)


def train_shapes(config: TrainShapesConfig, flags: RunFlags) -> None:
    """Train the small CLIP that ships (--model shapes) from scratch, on scenes it draws.

    Writes weights.safetensors and record.json. Takes about an hour of one core.
    """
    from scalecli.cli.run import open_run
    from scalecli.core.engine import limit_threads
    from scalecli.localize.shapes import charts
    from scalecli.localize.shapes.accuracy import held_out_accuracy
    from scalecli.localize.shapes.tables import accuracy_table
    from scalecli.localize.shapes.training import Measure, Trainer, recipe, train
    from scalecli.localize.shapes.weights import (
        RECORD,
        WEIGHTS,
        Record,
        save_record,
        save_weights,
    )

    limit_threads(config.threads)
    with open_run("localize train-shapes", to_dict(config), flags, PACKAGES) as run:
        checkpoint = run.folder / "checkpoint.pt"
        if flags.overwrite:
            checkpoint.unlink(missing_ok=True)
        trainer = Trainer(config)
        if checkpoint.exists():
            trainer.load(checkpoint)
            run.note(f"going on from step {trainer.step:,} of {config.steps:,}")
        run.picture("scenes.png", charts.scenes_figure(config.seed))
        with run.progress("training", config.steps - trainer.step) as bar:
            for measure in train(trainer, checkpoint, advanced=lambda _: bar.advance()):
                run.log.append(f"step {measure.step}", [measure])
                run.note(str(measure))
        logged = [row for rows in run.log.done.values() for row in rows]
        curve = sorted((from_mapping(Measure, row) for row in logged), key=lambda m: m.step)
        model = trainer.model.half().float()  # as it is stored
        accuracy = held_out_accuracy(model, FINAL_SCENES)
        record = Record(
            sha256=save_weights(model, run.folder),
            config=config,
            recipe=recipe(config),
            parameters=sum(p.numel() for p in model.parameters()),
            seconds=trainer.seconds,
            accuracy=accuracy,
            accuracy_scenes=FINAL_SCENES,
            curve=tuple(jsonable(m) for m in curve),
            versions=versions(*PACKAGES),
        )
        save_record(record, run.folder)
        run.files += [run.folder / WEIGHTS, run.folder / RECORD]
        run.show(accuracy_table(accuracy, FINAL_SCENES))
        run.picture("training.png", charts.training_figure(curve, accuracy))
        run.close_with(run.results(curve, {"record": jsonable(record)}))
