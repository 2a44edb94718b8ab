"""How can we see what an encoder sees as an image makes its way through its layers?

A method that names a layer is asked at each. A method that reads the end of the network is asked
of the network ended after each block, whose tokens go through the same final norm and projection.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scalecli.localize.encoder import Subject
from scalecli.localize.methods import Method


def can_follow(subject: Subject, method: Method) -> bool:
    """Whether the method says something at every layer of this network."""
    chooses = "layer" in method.options or "block" in method.options
    return chooses or next(subject.prefixes(), None) is not None


def follow(
    subject: Subject, method: Method, image: Tensor, text: Tensor, options: dict[str, Any]
) -> list[tuple[str, Tensor]]:
    """(name, maps [B, P, gh, gw]) at every layer in order.

    Args:
        subject: the network.
        method: one for which :func:`can_follow` holds.
        image: [B, 3, height, width].
        text: [P, E].
        options: of the method; the layer is set here, and a count of ``blocks`` is cut to those
            that there are.
    """
    names = subject.layers
    if "layer" in method.options:
        return [(n, method(subject, image, text, **{**options, "layer": n})) for n in names]
    if "block" in method.options:
        with subject.shared(image):
            return [
                (n, method(subject, image, text, **{**options, "block": i}))
                for i, n in enumerate(names)
            ]
    blocks = options.get("blocks", method.defaults.get("blocks"))
    found = []
    with subject.shared(image):
        for count, (name, part) in enumerate(zip(names, subject.prefixes(), strict=True), start=1):
            cut = {"blocks": min(blocks, count)} if isinstance(blocks, int) else {}
            found.append((name, method(part, image, text, **{**options, **cut})))
    return found
