"""A group with a default: `scalecli spiral --seeds 3` is `scalecli spiral sweep --seeds 3`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class DefaultGroup(TyperGroup):
    """Sends flags (and, with ``words``, unknown first words) to the command named ``default``.

    Subclasses set ``default``. ``--help`` alone still lists the group's commands.
    """

    default = ""
    words = False
    """Whether the default command takes words, so that an unknown one is no mistyped command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command where no command was named."""
        helps = {"-h", "--help"}
        named = bool(args) and (args[0] in self.list_commands(ctx) or args[0] in helps)
        # A word that is no flag is a mistyped command: the group names the closest one.
        if not named and (self.words or not args or args[0].startswith("-")):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def default_app(group: type[DefaultGroup], help: str) -> typer.Typer:
    """The Typer app of a command with subcommands, one of which is the default."""
    return typer.Typer(
        cls=group,
        help=help,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
