"""What one measurement is: a rung (the setting under test) and a bench (what all rungs share)."""

from __future__ import annotations

import dataclasses
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


@dataclass(frozen=True)
class RungConfig:
    """One setting under test; the defaults are the article's baseline."""

    batch_size: int = option(16, "Samples per step and process.", low=1)
    num_workers: int = option(0, "Loader processes; 0 loads in the training process.", low=0)
    amp: bool = option(False, "Autocast to bfloat16; weights stay float32.")
    bf16: bool = option(
        False, "Everything in bfloat16: XLA_USE_BF16 where honoured, bfloat16 weights elsewhere."
    )
    batches_per_execution: int = option(
        1, "Steps unrolled into one execution (XLA and Neuron through XLA).", low=1
    )
    compile: str | None = option(None, "torch.compile backend.", choices=lambda: COMPILERS)
    auto_cast: str | None = option(None, "neuronx-cc --auto-cast.", choices=lambda: AUTO_CAST)
    auto_cast_type: str | None = option(
        None, "neuronx-cc --auto-cast-type.", choices=lambda: AUTO_CAST_TYPES
    )
    model_type: str | None = option(None, "neuronx-cc --model-type.", choices=lambda: MODEL_TYPES)
    optlevel: str | None = option(None, "neuronx-cc --optlevel.", choices=lambda: OPTLEVELS)
    target: str | None = option(None, "neuronx-cc --target.", choices=lambda: TARGETS)
    loader_prefetch: int | None = option(
        None, "Batches prefetched on the host (XLA default 16).", low=1
    )
    device_prefetch: int | None = option(
        None, "Batches prefetched on the device (XLA default 8).", low=1
    )
    transfer_threads: int | None = option(
        None, "Threads copying host to device (XLA default 1).", low=1
    )
    nproc: int = option(1, "Data-parallel processes on this machine.", low=1)
    env: dict[str, str] = dataclasses.field(
        default_factory=dict,
        metadata={"option": Option("Environment variables; they win over derived ones.")},
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

    device: str = option("auto", "Where to run.", choices=lambda: DEVICES)
    preset: Literal["auto", "article", "tiny"] = option(
        "auto", "Model size: article is ViT-B/16 at 224, tiny suits two cores; auto by device."
    )
    model: str | None = option(None, "Any timm model; by default the preset's.")
    image_size: int | None = option(None, "Pixels per side; by default the preset's.", low=1)
    num_classes: int | None = option(None, "Classes; by default the preset's.", low=1)
    steps: int = option(100, "Timed steps per repeat, rounded up to whole executions.", low=1)
    max_warmup: int = option(
        200, "Give up when compilation has not stopped after this many steps.", low=3
    )
    repeats: int = option(5, "Fresh processes per rung.", low=1)
    data: Literal["random", "resident", "pregenerated"] = option(
        "random", "Images drawn per sample, one batch kept on the device, or a pool drawn before."
    )
    seed: int = option(0, "Seed of weights, data and the order of runs.", low=0)
    timeout: float = option(1800.0, "Seconds after which one process counts as hung.", above=0)
    usd_per_hour: float | None = option(None, "Price of the machine in USD per hour.", above=0)


@dataclass(frozen=True)
class Preset:
    """A model to measure."""

    model: str
    image_size: int
    num_classes: int


PRESETS = {
    "article": Preset("vit_base_patch16_224", 224, 1000),
    "tiny": Preset("vit_tiny_patch16_224", 32, 10),
}


def with_preset(bench: BenchConfig, device: str) -> BenchConfig:
    """``bench`` with model, image size and classes settled for the chosen ``device``."""
    name = bench.preset
    if name == "auto":
        name = "tiny" if device == "cpu" else "article"
    preset = PRESETS[name]
    return dataclasses.replace(
        bench,
        device=device,
        preset=name,
        model=preset.model if bench.model is None else bench.model,
        image_size=preset.image_size if bench.image_size is None else bench.image_size,
        num_classes=preset.num_classes if bench.num_classes is None else bench.num_classes,
    )


def check(bench: BenchConfig, rung: RungConfig) -> None:
    """What only the two together can get wrong.

    Raises:
        UsageError: one execution would not fit into the timed steps or the warm-up.
    """
    n = rung.batches_per_execution
    if n > bench.steps:
        raise UsageError(f"--batches-per-execution {n} is above --steps {bench.steps}; raise steps")
    if 2 * n + 1 > bench.max_warmup:
        raise UsageError(
            f"--batches-per-execution {n} warms up for {2 * n + 1} steps, "
            f"above --max-warmup {bench.max_warmup}; raise it"
        )
