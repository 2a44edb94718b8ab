"""Localize: GEM beside the plain encoder, many prompts, CAM packages, a folder of pictures."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scalecli.localize.embedded import faster, load_cnn
from scalecli.localize.methods import CNN_METHODS, VIT_METHODS
from scalecli.localize.timm_tower import TimmTower
from scalecli.localize.vit import Tower
from tests.benchmarks.timing import Comparison, Target, compare

MODEL = "ViT-B-16"
FLOWER = 985
"""ImageNet's class daisy."""


def gem() -> list[Comparison]:
    """GEM's maps beside plain ``encode_image`` of the same batch, random weights."""
    lines = []
    for side, wanted in ((224, 1.25), (448, 1.6)):
        model = _clip(side)
        tower = Tower(model.visual)
        text = F.normalize(torch.randn(1, 512), dim=-1)
        for size in (1, 8):
            image = torch.randn(size, 3, side, side)

            def ours(tower: Tower = tower, image: Tensor = image, text: Tensor = text) -> None:
                VIT_METHODS["gem"](tower, image, text)

            def plain(model: Any = model, image: Tensor = image) -> None:
                with torch.no_grad():
                    model.encode_image(image)

            allowed = _flops(ours) / _flops(plain)
            line = compare(
                f"GEM {MODEL} {side}, batch {size}",
                ours,
                "open_clip encode_image",
                plain,
                Target("cost", wanted),
                turns=5 if size == 1 else 3,
                limit=f"counted FLOPs allow {allowed:.2f}×",
            )
            line.notes.append(f"{line.ratio / allowed:.2f}× what FLOPs allow")
            lines.append(line)
    return lines


def prompts() -> list[Comparison]:
    """A hundred prompts in one image against one; texts are encoded beforehand."""
    tower = Tower(_clip(224).visual)
    image, text = torch.randn(1, 3, 224, 224), F.normalize(torch.randn(100, 512), dim=-1)
    return [
        compare(
            f"GEM {MODEL}, 100 prompts",
            lambda: VIT_METHODS["gem"](tower, image, text),
            "one prompt",
            lambda: VIT_METHODS["gem"](tower, image, text[:1]),
            Target("cost", 1.05),
            turns=15,
        )
    ]


def cams(count: int = 64, batch: int = 8) -> list[Comparison]:
    """CAM and Grad-CAM of one class in images of one size, in batches, on EfficientNet-Lite0."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import CAM

    theirs = load_cnn().requires_grad_(True)
    batches = torch.split(_crops(count), batch)
    row = theirs.get_classifier().weight[[FLOWER]].detach()
    tower = TimmTower(faster(load_cnn()), pre_logits=True, unit=False)
    found: dict[str, Tensor] = {}

    def our(method: str) -> None:
        maps = [CNN_METHODS[method](tower, images, row) for images in batches]
        found[f"ours {method}"] = torch.cat(maps)

    def torchcam() -> None:
        with CAM(theirs, "bn2", fc_layer="classifier") as extractor:
            maps = []
            for images in batches:
                classes = [FLOWER] * len(images)
                maps.append(extractor(classes, theirs(images), normalized=False)[0].detach())
            found["torchcam"] = torch.cat(maps)

    def grad_cam() -> None:
        target = ClassifierOutputTarget(FLOWER)
        with GradCAM(model=theirs, target_layers=[theirs.bn2]) as extractor:
            maps = [extractor(images, [target] * len(images)) for images in batches]
            found["grad-cam"] = torch.from_numpy(np.concatenate(maps))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cam_line = compare(
            f"cam, {count} images", lambda: our("cam"), "torchcam CAM", torchcam,
            Target("faster", 1.5),
        )  # fmt: skip
        grad_line = compare(
            f"gradcam, {count} images", lambda: our("gradcam"), "pytorch-grad-cam", grad_cam,
            Target("faster", 1.5),
        )  # fmt: skip
    cam_line.notes.append(_alike(found["ours cam"], found["torchcam"]))
    upsampled = F.interpolate(found["ours gradcam"], size=(224, 224), mode="bilinear")
    grad_line.notes.append(_alike(upsampled, found["grad-cam"]))
    return [cam_line, grad_line]


def folder(count: int = 300) -> list[Comparison]:
    """`scalecli localize` over a folder of JPEGs, against a plain loop in one process."""
    from sklearn.datasets import load_sample_images

    with tempfile.TemporaryDirectory() as place:
        pictures = Path(place) / "pictures"
        write_jpegs(pictures, count, load_sample_images().images)
        script = Path(place) / "loop.py"
        script.write_text(PLAIN_LOOP)

        def ours() -> None:
            out = Path(place) / "ours"
            shutil.rmtree(out, ignore_errors=True)
            arguments = [str(pictures), "flower", "--model", "embedded", "--method", "cam"]
            _run("-m", "scalecli", "localize", *arguments, "--out", str(out), "--quiet")

        def peer() -> None:
            out = Path(place) / "peer"
            shutil.rmtree(out, ignore_errors=True)
            _run(str(script), str(pictures), str(out))

        line = compare(
            f"a folder of {count} JPEGs, embedded",
            ours,
            "a plain loop: PIL, model, overlay, save",
            peer,
            Target("faster", 1.5),
            turns=2,
            warm_up=False,
            limit=_stages(pictures),
        )
        line.notes.append("both from the start of the process, model loading included")
    return [line]


PLAIN_LOOP = """
import sys
from pathlib import Path
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scalecli.localize.embedded import load_cnn
from scalecli.localize.load import load_encoder
from scalecli.localize.model_config import ModelConfig

text = load_encoder(ModelConfig(model="embedded")).text(["flower"])
cnn = load_cnn()
out = Path(sys.argv[2])
out.mkdir(parents=True)
for path in sorted(Path(sys.argv[1]).iterdir()):
    picture = Image.open(path).convert("RGB")
    short = min(picture.size)
    w, h = (max(32, round(s * 224 / short / 32) * 32) for s in picture.size)
    pixels = np.asarray(picture.resize((w, h), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    image = (torch.from_numpy(pixels).permute(2, 0, 1) - 0.5) / 0.5
    with torch.no_grad():
        features = cnn.forward_features(image[None])
        scores = torch.einsum("bchw,pc->bphw", features, text)
    full = F.interpolate(scores, size=picture.size[::-1], mode="bilinear")[0, 0].numpy()
    full = (full - full.min()) / (full.max() - full.min())
    colours = matplotlib.colormaps["inferno"](full)[..., :3] * 255
    blended = 0.4 * np.asarray(picture) + 0.6 * colours
    Image.fromarray(blended.astype(np.uint8)).save(out / f"{path.stem}.png")
"""


def _stages(pictures: Path) -> str:
    """Milliseconds per picture of decoding, model and PNG encoding alone, on one core."""
    import io
    import time

    from PIL import Image

    cnn = faster(load_cnn())
    paths = sorted(pictures.iterdir())[:20]
    clock = time.process_time

    def per_picture(work: Callable[[Path], object]) -> float:
        begin = clock()
        for path in paths:
            work(path)
        return (clock() - begin) / len(paths) * 1e3

    picture = Image.open(paths[0]).convert("RGB")
    image = torch.randn(1, 3, 224, 320)
    with torch.no_grad():
        decode = per_picture(lambda path: Image.open(path).convert("RGB"))
        model = per_picture(lambda path: cnn.forward_features(image))
    encode = per_picture(lambda path: picture.save(io.BytesIO(), format="PNG", compress_level=1))
    return f"CPU per picture: decoding {decode:.0f} ms, model {model:.0f} ms, PNG {encode:.0f} ms"


def write_jpegs(folder: Path, count: int, images: list[Any]) -> None:
    """Crops of real photographs, all different."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = images[i % len(images)]
        top, left = rng.integers(0, picture.shape[0] - 360), rng.integers(0, 160)
        crop = picture[top : top + 360, left : left + 480]
        Image.fromarray(crop).save(folder / f"{i:05d}.jpg", quality=90)


def _clip(side: int) -> Any:
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.create_model(MODEL, force_image_size=side).eval()


def _flops(work: Callable[[], None]) -> int:
    """Counted as if attention were written out, since fused kernels hide from the counter."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            counter = FlopCounterMode(display=False)
            with counter:
                work()
        return counter.get_total_flops()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def _crops(count: int) -> Tensor:
    """Crops [count, 3, 224, 224] of a photograph, normalised."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).float() / 127.5 - 1
    rng = np.random.default_rng(0)
    corners = zip(rng.integers(0, 427 - 224, count), rng.integers(0, 640 - 224, count), strict=True)
    return torch.stack([pixels[y : y + 224, x : x + 224].permute(2, 0, 1) for y, x in corners])


def _alike(ours: Tensor, theirs: Tensor) -> str:
    """The least correlation of a map with the peer's, which may be scaled picture by picture."""
    least = 1.0
    for a, b in zip(ours.flatten(1).double(), theirs.flatten(1).double(), strict=True):
        if a.std() > 0 and b.std() > 0:  # a map without positive evidence is zero in both
            least = min(least, float(torch.corrcoef(torch.stack([a, b]))[0, 1]))
    return f"maps correlate at least {least:.6f}"


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
