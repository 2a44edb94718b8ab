"""How good a shapes CLIP is, as a table."""

from __future__ import annotations

from scalecli.core.table import Column, Table, number
from scalecli.localize.shapes.accuracy import Accuracy


def accuracy_table(accuracy: Accuracy, scenes: int) -> Table:
    """Zero-shot accuracies with their chance levels."""
    lines = [
        ("colour and shape never seen together", accuracy.held_out_pair, accuracy.pair_chance),
        ("colour and shape seen together", accuracy.known_pair, accuracy.pair_chance),
        ("shape", accuracy.shape, accuracy.shape_chance),
        ("whose colour is which", accuracy.binding, 0.5),
    ]
    return Table(
        f"Zero-shot accuracy on {scenes:,} held-out scenes",
        [Column("question", "left"), Column("accuracy"), Column("chance")],
        [[name, number(found), number(chance)] for name, found, chance in lines],
    )
