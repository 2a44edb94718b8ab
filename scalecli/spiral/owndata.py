"""The user's own table: numeric and categorical columns, repeated stratified splits."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalecli.core.errors import UsageError, did_you_mean
from scalecli.spiral.classifier import Labels, Points

if TYPE_CHECKING:
    import polars as pl

    from scalecli.spiral.sweep import Cell

MAX_LEVELS = 50
"""A text column with more levels than this is an identifier, not a category."""
TEST_SHARE = 0.25


@dataclass(frozen=True)
class OwnTable:
    """A table ready for learning."""

    x_ND: Points
    """Features: numeric columns as they are, categories one-hot."""
    y_N: Labels
    """Class indices."""
    classes: tuple[str, ...]
    """Class names, sorted."""
    fingerprint: str
    """SHA-256 of the file."""

    @property
    def largest_n(self) -> int:
        """Largest training set that leaves a quarter for testing."""
        return int(len(self.y_N) * (1 - TEST_SHARE))


@functools.lru_cache(maxsize=2)
def load_table(path: Path, target: str, *, missing: str = "error") -> OwnTable:
    """Read a CSV or Parquet file for classification.

    Raises:
        UsageError: unreadable, wrong column, missing values, one class, too few rows, or a
            continuous target.
    """
    import polars as pl

    try:
        raw = path.read_bytes()
        frame = (
            pl.read_parquet(raw)
            if path.suffix.lower() in (".parquet", ".pq")
            else pl.read_csv(raw, infer_schema_length=None)
        )
    except FileNotFoundError as error:
        raise UsageError(f"--data {path}: no such file") from error
    except (OSError, pl.exceptions.PolarsError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise UsageError(f"--data {path}: not a readable CSV or Parquet table: {first}") from error
    if target not in frame.columns:
        raise UsageError(
            f"--target {target}: no such column; {did_you_mean(target, frame.columns)}"
        )
    if len(frame.columns) < 2:
        raise UsageError(f"--data {path}: has no column besides the target '{target}'")
    holes = {c: n for c in frame.columns if (n := _missing(frame[c]))}
    if holes and missing == "error":
        named = ", ".join(f"'{c}' ({n})" for c, n in list(holes.items())[:5])
        raise UsageError(f"--data {path}: missing values in {named}; fill them, or --missing drop")
    if holes:
        frame = frame.filter(
            ~pl.any_horizontal(
                [
                    pl.col(c).is_null()
                    | (pl.col(c).is_nan() if frame[c].dtype.is_float() else pl.lit(False))
                    for c in frame.columns
                ]
            )
        )
    names, y_N = np.unique(np.array([str(v) for v in frame[target]]), return_inverse=True)
    if len(frame) < 20:
        raise UsageError(f"--data {path}: {len(frame)} complete rows; a learning curve needs 20")
    if len(names) < 2:
        raise UsageError(f"--target {target}: only one class ('{names[0]}'); nothing to learn")
    if len(names) > max(20, len(frame) // 10) or (
        frame[target].dtype.is_float() and len(names) > 20
    ):
        raise UsageError(
            f"--target {target}: {len(names)} different values; this is classification, "
            "so bin a continuous target into classes first"
        )
    counts = np.bincount(y_N)
    if counts.min() < 4:
        rare = names[counts.argmin()]
        raise UsageError(f"--target {target}: class '{rare}' has {counts.min()} rows; needs 4")
    x_ND = np.concatenate([_encode(frame[c], path) for c in frame.columns if c != target], axis=1)
    digest = hashlib.sha256(raw).hexdigest()
    return OwnTable(x_ND, y_N.astype(np.int64), tuple(map(str, names)), digest)


def _missing(column: pl.Series) -> int:
    holes = int(column.null_count())
    if column.dtype.is_float():
        holes += int(column.is_nan().sum())
    return holes


def _encode(column: pl.Series, path: Path) -> Points:
    """Feature columns [N, levels] of one table column."""
    name, dtype = column.name, column.dtype
    if dtype.is_numeric() or str(dtype) == "Boolean":
        values = np.asarray(column.to_numpy(), dtype=float)[:, None]
        if not np.isfinite(values).all():
            raise UsageError(f"--data {path}: column '{name}' holds infinite values")
        return values
    levels, index = np.unique(np.array([str(v) for v in column]), return_inverse=True)
    if len(levels) > MAX_LEVELS:
        raise UsageError(
            f"--data {path}: text column '{name}' has {len(levels)} levels; drop it, or group it "
            f"into at most {MAX_LEVELS}"
        )
    return np.asarray(np.eye(len(levels))[index], dtype=float)


def cell_problem(
    cell: Cell,
) -> tuple[Points, Labels, list[dict[str, tuple[Points, Labels]]], int]:
    """Training stacks and test sets of a cell: per seed one stratified split.

    The test part depends on the seed only, so the curve of one seed is measured on one set.
    """
    from sklearn.model_selection import train_test_split

    assert cell.data is not None
    assert cell.target is not None
    table = load_table(cell.data, cell.target, missing=cell.missing)
    if table.fingerprint != cell.fingerprint:
        raise UsageError(f"--data {cell.data}: changed while the run was reading it; start again")
    xs, ys, tests = [], [], []
    for seed in cell.seeds:
        x, x_test, y, y_test = train_test_split(
            table.x_ND, table.y_N, test_size=TEST_SHARE, stratify=table.y_N, random_state=seed
        )
        take = _stratified(y, min(cell.n, len(y)), np.random.default_rng([seed, cell.n]))
        xs.append(x[take])
        ys.append(y[take])
        tests.append({"all": (x_test, y_test)})
    return np.stack(xs), np.stack(ys), tests, len(table.classes)


def _stratified(y: Labels, n: int, rng: np.random.Generator) -> Labels:
    """Indices of n rows whose classes stand in y's proportions as nearly as n allows."""
    order = rng.permutation(len(y))
    # Rank each row within its class as a share; the n smallest shares are a stratified sample.
    share = np.empty(len(y))
    for c in np.unique(y):
        mine = order[y[order] == c]
        share[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return np.argsort(share, kind="stable")[:n]
