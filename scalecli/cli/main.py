"""The root command: commands load when they are called, errors become one line."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from scalecli import __version__
from scalecli.core.errors import ScalecliError, Terminated

# name -> (module with an `app`, one line of help); the module is imported on use only.
COMMANDS = {
    "spiral": ("scalecli.cli.spiral", "Priors against data on the spiral, and on your own table."),
    "localize": (
        "scalecli.cli.localize",
        "Where a vision encoder sees a word: scalecli localize photo.jpg dog.",
    ),
    "localize-eval": (
        "scalecli.cli.localize_eval",
        "How well localization methods find things, by the literature's protocols.",
    ),
    "bench-neuron": (
        "scalecli.cli.bench_neuron",
        "What makes ViT training faster on Neuron, XLA, CUDA, CPU, with proof.",
    ),
    "doctor": ("scalecli.cli.doctor", "What this machine can run, and how to install the rest."),
}


class LazyGroup(TyperGroup):
    """Lists :data:`COMMANDS` from the table above and imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; a bare stand-in with its help line while only help is printed."""
        if cmd_name not in COMMANDS:
            return None
        module, line = COMMANDS[cmd_name]
        if cmd_name not in sys.argv and not ctx.resilient_parsing:
            stand_in = typer.Typer(add_completion=False)
            stand_in.command(cmd_name, help=line)(lambda: None)
            return typer.main.get_command(stand_in)
        loaded = typer.main.get_command(importlib.import_module(module).app)
        loaded.name = cmd_name
        return loaded


app = typer.Typer(
    cls=LazyGroup,
    help="What does scale buy you, and what do good priors buy you instead?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"scalecli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """What does scale buy you, and what do good priors buy you instead?"""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


def main() -> None:
    """Entry point: run the command and turn whatever goes wrong into one line and a code."""
    signal.signal(signal.SIGTERM, _terminate)
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False, prog_name="scalecli")
        sys.stdout.flush()
    except (ScalecliError, typer.Exit) as error:
        if isinstance(error, ScalecliError):
            if debug:
                raise
            fail(str(error))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _interrupted(130)
    except Terminated:
        code = _interrupted(143)
    except BrokenPipeError:
        # The reader of our pipe has gone (`| head`): nothing to report, nowhere to report it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if debug:
            raise
        code = _unexpected(error)
    sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: Exception) -> int:
    # Typer's own usage errors carry a message and a context; everything else is a surprise.
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        where = f" (see `{context.command_path} --help`)" if context else ""
        fail(f"{str(error.format_message()).rstrip('.')}{where}")
        return int(getattr(error, "exit_code", 2))
    first = str(error).strip().split("\n")[0]
    fail(f"{type(error).__name__}: {first} (add --debug for the traceback)")
    return 1


def _interrupted(code: int) -> int:
    fail("interrupted; finished work is on disk, run the same command with --resume to go on")
    return code


def fail(message: str) -> None:
    """Print one line to stderr."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
