"""Command-line options generated from config fields: one declaration, one parser, one help."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer

from scalecli.core.config import about, field_types, flag_of, make

Config = TypeVar("Config")


@dataclass(frozen=True)
class RunFlags:
    """The flags every command shares."""

    out: Path | None
    resume: bool
    overwrite: bool
    json: bool
    quiet: bool
    command: tuple[str, ...]


def command(
    app: typer.Typer, name: str, config: type[Config], **settings: Any
) -> Callable[[Callable[[Config, RunFlags], None]], Callable[[Config, RunFlags], None]]:
    """Register ``handler(config, flags)`` as ``name``, with a flag per field of ``config``."""

    def register(
        handler: Callable[[Config, RunFlags], None],
    ) -> Callable[[Config, RunFlags], None]:
        fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]

        def run(**values: Any) -> None:
            given = {
                name: value
                for name, value in values.items()
                if name in fields and value is not None and value != []
            }
            built = make(config, file=values["config"], given=given, sets=values["set_"] or ())
            handler(
                built,
                RunFlags(
                    out=values["out"],
                    resume=values["resume"],
                    overwrite=values["overwrite"],
                    json=values["json_"],
                    quiet=values["quiet"],
                    command=("scalecli", *sys.argv[1:]),
                ),
            )

        parameters = [p for f in fields.values() if (p := _parameter(config, f)) is not None]
        run.__signature__ = inspect.Signature(parameters + _shared())  # type: ignore[attr-defined]
        run.__doc__ = handler.__doc__
        app.command(name, **settings)(run)
        return handler

    return register


def _parameter(config: type, field: dataclasses.Field[Any]) -> inspect.Parameter | None:
    info = about(field)
    if not info.cli:
        return None
    kind = field_types(config)[field.name]
    declared: Any
    if info.argument:
        required = field.default is dataclasses.MISSING
        declared = typer.Argument(help=info.help, metavar=info.metavar, show_default=False)
        words: Any = list[str] if typing.get_origin(kind) is tuple else str
        annotation: Any = words if required else typing.Optional[words]  # noqa: UP045
        default: Any = inspect.Parameter.empty if required else None
    else:
        flag = flag_of(field)
        names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
        declared = typer.Option(
            *names,
            help=info.help,
            metavar=None if kind is bool else (info.metavar or _metavar(kind)),
            show_default=_shown(field.default),
            rich_help_panel=info.panel,
        )
        base = bool if kind is bool else list[str] if info.repeat else str
        annotation, default = typing.Optional[base], None  # noqa: UP045
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=typing.Annotated[annotation, declared],
    )


def _metavar(kind: Any) -> str:
    text = str(kind)
    if "tuple" in text:
        return "LIST"
    for name, shown in (("int", "INT"), ("float", "NUMBER"), ("Path", "PATH")):
        if name in text:
            return shown
    return "NAME"


def _shown(default: object) -> str | bool:
    if default is dataclasses.MISSING or default in (None, (), ""):
        return False
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default)


def _shared() -> list[inspect.Parameter]:
    panel = "Run"

    def make_one(name: str, kind: Any, default: Any, *flags: str, help: str) -> inspect.Parameter:
        declared = typer.Option(*flags, help=help, rich_help_panel=panel, show_default=False)
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=typing.Annotated[kind, declared],
        )

    path, texts = typing.Optional[Path], typing.Optional[list[str]]  # noqa: UP045
    return [
        make_one("config", path, None, "--config", "-c", help="YAML file, or a shipped name."),
        make_one("set_", texts, None, "--set", help="Any config key: problem.label_noise=0.1"),
        make_one("out", path, None, "--out", "-o", help="Folder for results and pictures."),
        make_one("resume", bool, False, "--resume", help="Continue the run in --out."),
        make_one("overwrite", bool, False, "--overwrite", help="Replace the run in --out."),
        make_one("json_", bool, False, "--json", help="results.json on stdout, nothing else."),
        make_one("quiet", bool, False, "--quiet", "-q", help="No progress, no notes."),
        make_one("debug", bool, False, "--debug", help="Show tracebacks."),
    ]
