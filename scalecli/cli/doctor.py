"""`scalecli doctor`."""

from __future__ import annotations

import json

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def doctor(
    json_: bool = typer.Option(False, "--json", help="Findings as JSON on stdout."),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    """What this machine can run, and the exact line that installs what is missing."""
    from scalecli.cli.run import show_table
    from scalecli.core.results import jsonable
    from scalecli.doctor import diagnose, diagnosis_table

    findings = diagnose()
    if json_:
        print(json.dumps(jsonable(findings)))
    else:
        show_table(diagnosis_table(findings))
