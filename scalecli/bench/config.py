"""What one measurement is: a rung (the setting under test) and a bench (what all rungs share)."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Literal

from scalecli.core.config import Option, option
from scalecli.core.errors import UsageError

AUTO_CAST = ("none", "matmult", "all")
AUTO_CAST_TYPES = ("bf16", "fp16", "tf32", "fp8_e4m3")
MODEL_TYPES = ("generic", "transformer", "unet-inference")
OPTLEVELS = ("1", "2", "3")
TARGETS = ("inf2", "trn1", "trn1n", "trn2")
COMPILERS = ("openxla", "inductor", "neuron")
DEVICES = ("auto", "neuron", "xla", "cuda", "mps", "cpu")


_SETTING = {"panel": "Setting under test"}
_NEURONX_CC = {"panel": "Setting under test: neuronx-cc"}
_MODEL = {"panel": "Model and data"}
_TIMING = {"panel": "Measurement"}


@dataclass(frozen=True)
class RungConfig:
    """One setting under test; the defaults are the article's baseline."""

    batch_size: int = option(16, "Samples per step and process.", low=1, **_SETTING)
    num_workers: int = option(
        0, "Loader processes; 0 loads in the training process.", low=0, **_SETTING
    )
    amp: bool = option(False, "Autocast to bfloat16; weights stay float32.", **_SETTING)
    bf16: bool = option(
        False,
        "Everything in bfloat16: XLA_USE_BF16 where honoured, bfloat16 weights elsewhere.",
        **_SETTING,
    )
    batches_per_execution: int = option(
        1, "Steps unrolled into one execution (XLA and Neuron through XLA).", low=1, **_SETTING
    )
    compile: str | None = option(
        None, "torch.compile backend.", choices=lambda: COMPILERS, **_SETTING
    )
    loader_prefetch: int | None = option(
        None, "Batches prefetched on the host (XLA default 16).", low=1, **_SETTING
    )
    device_prefetch: int | None = option(
        None, "Batches prefetched on the device (XLA default 8).", low=1, **_SETTING
    )
    transfer_threads: int | None = option(
        None, "Threads copying host to device (XLA default 1).", low=1, **_SETTING
    )
    nproc: int = option(1, "Data-parallel processes on this machine.", low=1, **_SETTING)
    env: dict[str, str] = dataclasses.field(
        default_factory=dict,
        metadata={
            "option": Option(
                "Environment variable, may be repeated; wins over derived ones.",
                repeat=True,
                metavar="KEY=VALUE",
                **_SETTING,  # type: ignore[arg-type]
            )
        },
    )
    auto_cast: str | None = option(
        None, "What it casts: none, matmult or all.", choices=lambda: AUTO_CAST, **_NEURONX_CC
    )
    auto_cast_type: str | None = option(
        None, "What it casts to: bf16, fp16, tf32 or fp8_e4m3.",
        choices=lambda: AUTO_CAST_TYPES, **_NEURONX_CC,
    )  # fmt: skip
    model_type: str | None = option(
        None, "generic, transformer or unet-inference.", choices=lambda: MODEL_TYPES, **_NEURONX_CC
    )
    optlevel: str | None = option(None, "1, 2 or 3.", choices=lambda: OPTLEVELS, **_NEURONX_CC)
    target: str | None = option(
        None, "inf2, trn1, trn1n or trn2.", choices=lambda: TARGETS, **_NEURONX_CC
    )

    def __post_init__(self) -> None:
        if self.amp and self.bf16:
            raise ValueError("--amp and --bf16 are two ways to the same end; give one")
        if self.auto_cast_type is not None and self.auto_cast in (None, "none"):
            raise ValueError("--auto-cast-type needs --auto-cast matmult or all")
        for key in self.env:
            if not key or "=" in key or "\0" in key + self.env[key]:
                raise ValueError(f"--env {key!r}: not a variable name")


@dataclass(frozen=True)
class BenchConfig:
    """What every rung of a run shares. ``None`` leaves the choice to the preset."""

    device: str = option(
        "auto", "auto, neuron, xla, cuda, mps or cpu; auto takes the best that works.",
        choices=lambda: DEVICES, **_MODEL,
    )  # fmt: skip
    preset: Literal["auto", "article", "tiny"] = option(
        "auto",
        "Model size: article is ViT-B/16 at 224, tiny suits two cores; auto by device.",
        **_MODEL,
    )
    model: str | None = option(None, "Any timm model; by default the preset's.", **_MODEL)
    image_size: int | None = option(
        None, "Pixels per side; by default the preset's.", low=1, **_MODEL
    )
    num_classes: int | None = option(None, "Classes; by default the preset's.", low=1, **_MODEL)
    depth: int | None = option(
        None, "Transformer blocks; by default the preset's, or the model's own.", low=1, **_MODEL
    )
    data: Literal["random", "resident", "pregenerated"] = option(
        "random",
        "Images: random (drawn per sample), resident (one batch kept on the device) or "
        "pregenerated (a pool drawn before).",
        **_MODEL,
    )
    steps: int = option(
        100, "Timed steps per repeat, rounded up to whole executions.", low=1, **_TIMING
    )
    seconds: float | None = option(
        None, "Time this long per repeat, whatever --steps says.", above=0, **_TIMING
    )
    max_warmup: int = option(
        200, "Give up when compilation has not stopped after this many steps.", low=3, **_TIMING
    )
    repeats: int = option(3, "Fresh processes per rung.", low=1, **_TIMING)
    seed: int = option(0, "Seed of weights, data and the order of runs.", low=0, **_TIMING)
    timeout: float = option(
        1800.0, "Seconds after which one process counts as hung.", above=0, **_TIMING
    )
    memory_limit_mb: int | None = option(
        None, "Memory a worker may allocate on the host, MB (Linux).", low=1, **_TIMING
    )
    nnodes: int = option(
        1, "Machines; start the same command on each (torchrun).", low=1, **_TIMING
    )
    rdzv_endpoint: str | None = option(
        None, "Where the machines meet (torchrun).", metavar="HOST:PORT", **_TIMING
    )
    usd_per_hour: float | None = option(
        None, "Price of the machine; known for some EC2 instance types.", above=0, **_TIMING
    )

    def __post_init__(self) -> None:
        if (self.nnodes > 1) != (self.rdzv_endpoint is not None):
            raise ValueError("--nnodes above 1 and --rdzv-endpoint HOST:PORT need each other")


@dataclass(frozen=True)
class Preset:
    """A model to measure."""

    model: str
    image_size: int
    num_classes: int
    depth: int | None = None


PRESETS = {
    "article": Preset("vit_base_patch16_224", 224, 1000),
    # One block: ten unrolled steps of twelve take XLA's CPU compiler many minutes.
    "tiny": Preset("vit_tiny_patch16_224", 32, 10, depth=1),
}


def on_cpu(device: str) -> bool:
    """Whether work on ``device`` is done by the host's processor."""
    return device == "cpu" or (device == "xla" and os.environ.get("PJRT_DEVICE", "CPU") == "CPU")


def with_preset(bench: BenchConfig, device: str) -> BenchConfig:
    """``bench`` with model, image size and classes settled for the chosen ``device``."""
    name = bench.preset
    if name == "auto":
        name = "tiny" if on_cpu(device) else "article"
    preset = PRESETS[name]
    # The preset's depth is of its own model: another model keeps its own.
    depth = preset.depth if bench.model is None else None
    return dataclasses.replace(
        bench,
        device=device,
        preset=name,
        model=preset.model if bench.model is None else bench.model,
        image_size=preset.image_size if bench.image_size is None else bench.image_size,
        num_classes=preset.num_classes if bench.num_classes is None else bench.num_classes,
        depth=depth if bench.depth is None else bench.depth,
    )


def check(bench: BenchConfig, rung: RungConfig) -> None:
    """What only the two together can get wrong.

    Raises:
        UsageError: one execution would not fit into the timed steps or the warm-up.
    """
    n = rung.batches_per_execution
    if bench.seconds is None and n > bench.steps:
        raise UsageError(f"--batches-per-execution {n} is above --steps {bench.steps}; raise steps")
    if 2 * n + 1 > bench.max_warmup:
        raise UsageError(
            f"--batches-per-execution {n} warms up for {2 * n + 1} steps, "
            f"above --max-warmup {bench.max_warmup}; raise it"
        )
