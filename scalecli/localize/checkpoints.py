"""Reading weights without running what is inside: safetensors, or tensors alone from a pickle."""

from __future__ import annotations

import contextlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scalecli.core.errors import ScalecliError, UsageError

SAFE = "convert it to safetensors, which holds numbers only"


def load_weights(model: nn.Module, file: Path) -> None:
    """Load an open_clip checkpoint, every tensor of it, into a model.

    Raises:
        UsageError: the file would run code when read, or belongs to another architecture.
        ScalecliError: the file is damaged.
    """
    from open_clip import load_checkpoint

    with _reading(file):
        load_checkpoint(model, str(file), strict=True, weights_only=True)


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    Raises:
        UsageError: the file would run code when read, or holds something else.
        ScalecliError: the file is damaged.
    """
    with _reading(file):
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
        return dict(state.get("state_dict", state))


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    if _is_torchscript(file):
        raise UsageError(
            f"{file.name}: a TorchScript archive is a program, not only weights, and is not run; "
            f"{SAFE}, or use the tag (--pretrained openai), whose weights are safetensors"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about the age of a pickle
            yield
    except pickle.UnpicklingError as error:
        if _head(file)[:2] != b"PK" and _head(file)[:1] != b"\x80":
            raise ScalecliError(f"{file}: damaged, or no checkpoint at all") from error
        raise UsageError(
            f"{file.name}: refused, since it holds more than tensors and reading it could run "
            f"code stored inside; {SAFE}"
        ) from error
    except (SafetensorError, EOFError, zipfile.BadZipFile, OSError) as error:
        raise ScalecliError(f"{file}: damaged or cut short ({_why(error)})") from error
    except RuntimeError as error:
        if "state_dict" in str(error):
            raise UsageError(f"{file.name}: does not fit this model: {_detail(error)}") from error
        raise ScalecliError(f"{file}: damaged or cut short ({_why(error)})") from error
    except AssertionError as error:  # open_clip's, on positions of another width
        raise UsageError(f"{file.name}: does not fit this model: {_why(error)}") from error
    except (KeyError, IndexError, AttributeError, TypeError, StopIteration) as error:
        raise UsageError(f"{file.name}: holds no weights of such a model") from error


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(4)


def _detail(error: BaseException) -> str:
    """The first detail of torch's list of what does not fit."""
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    return lines[0][:160] if lines else _why(error)


def _why(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:120]
