"""What authors report, for runs under the same protocol with the same backbone.

Only figures whose protocol is one of ``configs/eval``, unchanged, on the dataset it was made for.
"""

from __future__ import annotations

from dataclasses import dataclass

SCLIP = "SCLIP README (Wang et al. 2023)"
GEM = "GEM (Bousselham et al. 2024), Table 1"
B16, B32, L14 = "ViT-B-16 (openai)", "ViT-B-32 (openai)", "ViT-L-14 (openai)"


@dataclass(frozen=True)
class Published:
    """One figure from a paper or its repository."""

    protocol: str
    dataset: str
    """Kind of dataset."""
    backbone: str
    method: str
    miou: float
    """0…1."""
    source: str


PUBLISHED = (
    Published("voc21", "voc", B16, "sclip", 0.5963, SCLIP),
    Published("voc20", "voc", B16, "sclip", 0.8154, SCLIP),
    Published("ade150", "ade20k", B16, "sclip", 0.1645, SCLIP),
    Published("coco-object", "coco-panoptic", B16, "sclip", 0.3352, SCLIP),
    Published("gem", "voc", B16, "patch-text", 0.104, GEM),
    Published("gem", "voc", B16, "maskclip", 0.286, GEM),
    Published("gem", "voc", B16, "clip-surgery", 0.412, GEM),
    Published("gem", "voc", B16, "gem", 0.462, GEM),
    Published("gem", "voc", B32, "gem", 0.405, GEM),
    Published("gem", "voc", L14, "gem", 0.446, GEM),
)


def find(protocol: str, dataset: str, backbone: str, method: str) -> Published | None:
    """The published figure of a run, if one fits.

    Args:
        protocol: name of a shipped protocol, unchanged.
        dataset: kind of dataset.
        backbone: name of the encoder; a ``-quickgelu`` in it is how open_clip says OpenAI's own.
        method: without options.
    """
    plain = backbone.replace("-quickgelu", "")
    asked = (protocol, dataset, plain, method)
    for one in PUBLISHED:
        if (one.protocol, one.dataset, one.backbone, one.method) == asked:
            return one
    return None
