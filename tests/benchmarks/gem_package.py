"""GEM against its authors' package, in an environment of its own: it needs an old open_clip."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from scalecli.localize.methods import VIT_METHODS
from scalecli.localize.vit import Tower
from tests.benchmarks.timing import Comparison, Target, compare

PACKAGES = ("gem_torch==1.0.1", "open_clip_torch==2.24.0", "einops")
MODEL, SIDE = "ViT-B-16", 224
THEIRS = """
import sys
from pathlib import Path
import numpy as np
import open_clip
import torch
from gem.gem_wrapper import GEMWrapper

place = Path(sys.argv[1])
model = open_clip.create_model(sys.argv[2]).eval()
model.load_state_dict(torch.load(place / "state.pt", weights_only=True))
gem = GEMWrapper(model, tokenizer=None).eval()
image, text = torch.load(place / "input.pt", weights_only=True)
gem.encode_text = lambda _: text[None]  # encoded beforehand on both sides
for _ in sys.stdin:
    with torch.no_grad():
        maps = gem(image, ["dog"], normalize=False)
    np.save(place / "maps.npy", maps.numpy())
    print("done", flush=True)
"""


def gem_package() -> list[Comparison]:
    """The same random weights and image; nothing where the package cannot be had."""
    import open_clip

    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        place = Path(folder)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        if subprocess.run([*pip, *PACKAGES], capture_output=True, check=False).returncode:
            print(f"gem-torch: not to be had here ({' '.join(PACKAGES)})", file=sys.stderr)
            return []
        torch.manual_seed(0)
        model: Any = open_clip.create_model(MODEL).eval()
        image = torch.randn(1, 3, SIDE, SIDE)
        text = F.normalize(torch.randn(1, 512), dim=-1)
        torch.save(model.state_dict(), place / "state.pt")
        torch.save((image, text), place / "input.pt")
        tower = Tower(model.visual)
        with subprocess.Popen(
            [sys.executable, "-c", THEIRS, folder, MODEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": folder},
        ) as process:

            def ours() -> None:
                found[0] = VIT_METHODS["gem"](tower, image, text)

            def theirs() -> None:
                assert process.stdin is not None
                assert process.stdout is not None
                print("next", file=process.stdin, flush=True)
                assert process.stdout.readline() == "done\n"

            found = [torch.empty(0)]
            line = compare(
                f"GEM {MODEL} {SIDE}", ours, "package gem-torch", theirs, Target("faster", 1.0),
                turns=9,
            )  # fmt: skip
            process.kill()
        full = F.interpolate(found[0], size=(SIDE, SIDE), mode="bilinear")
        gap = float((full - torch.from_numpy(np.load(place / "maps.npy"))).abs().max())
        line.notes.append(f"cosines differ by {gap:.1e} at most")
    return [line]
