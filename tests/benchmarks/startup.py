"""How long `scalecli --help` takes beside a Typer program that does nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.timing import Comparison, Target, compare

HELLO = """
import typer
app = typer.Typer()

@app.command()
def hello() -> None:
    '''Say hello.'''

app()
"""


def help_page() -> list[Comparison]:
    """Both as a fresh process of the same interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "hello.py"
        script.write_text(HELLO)
        return [
            compare(
                "scalecli --help",
                lambda: _run("-m", "scalecli", "--help"),
                "a bare Typer hello --help",
                lambda: _run(str(script), "--help"),
                Target("cost", 1.5),
                turns=15,
            )
        ]


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
