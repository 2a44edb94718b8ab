"""Weights of a shapes CLIP on disk, beside the record of how they came about."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from scalecli.core.config import from_mapping
from scalecli.core.errors import ScalecliError, UsageError
from scalecli.core.files import atomic_path, write_text
from scalecli.core.results import jsonable
from scalecli.localize.shapes.accuracy import Accuracy
from scalecli.localize.shapes.config import TrainShapesConfig
from scalecli.localize.shapes.model import build

SHIPPED = Path(__file__).parent
"""The folder of the weights that come with the package."""
WEIGHTS, RECORD = "weights.safetensors", "record.json"


@dataclass(frozen=True)
class Record:
    """How a shapes CLIP was trained, and how good it is."""

    sha256: str
    """Of the weights file."""
    config: TrainShapesConfig
    recipe: str
    """:func:`scalecli.localize.shapes.training.recipe`: which lessons it had."""
    parameters: int
    seconds: float
    """Time spent on training, measures left out."""
    accuracy: Accuracy
    """Of the weights as stored, on ``accuracy_scenes`` held-out scenes."""
    accuracy_scenes: int
    curve: tuple[dict[str, float], ...]
    """:class:`~.training.Measure` after :class:`~.training.Measure`, as training went on."""
    versions: dict[str, str]


def save_weights(model: Any, folder: Path) -> str:
    """Write a model's weights in half precision; their sha256."""
    state = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    content = save(state)
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def save_record(record: Record, folder: Path) -> None:
    """Write the record beside the weights."""
    write_text(folder / RECORD, json.dumps(jsonable(record), indent=1) + "\n")


def load_record(folder: Path = SHIPPED) -> Record:
    """The record beside a folder's weights.

    Raises:
        UsageError: there is none.
        ScalecliError: it is damaged.
    """
    file = folder / RECORD
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return from_mapping(Record, data, where=str(file))
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: no {RECORD}; name the --out folder of a finished train-shapes"
        ) from None
    except (OSError, ValueError) as error:
        raise ScalecliError(f"{file}: damaged: {error}") from error


def load_weights(folder: Path = SHIPPED) -> Any:
    """The model of a folder, in evaluation mode, float32, without gradients.

    Raises:
        UsageError: there are no weights.
        ScalecliError: they are not those of the record beside them.
    """
    record, file = load_record(folder), folder / WEIGHTS
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ScalecliError(f"{file}: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != record.sha256:
        raise ScalecliError(
            f"{file}: sha256 {found[:12]}… is not the recorded {record.sha256[:12]}…; "
            "nothing was loaded"
        )
    model = build()
    model.load_state_dict({k: v.float() for k, v in load(content).items()})
    return model.requires_grad_(False)
