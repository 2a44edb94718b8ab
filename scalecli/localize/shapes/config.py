"""What `scalecli localize train-shapes` trains."""

from __future__ import annotations

from dataclasses import dataclass

from scalecli.core.config import option


@dataclass(frozen=True)
class TrainShapesConfig:
    """Length, pace and seed of the training of the shapes CLIP."""

    steps: int = option(6000, "Steps of training.", low=1, high=10**7)
    batch: int = option(64, "Scenes per step, twins included; even.", low=4, high=4096)
    lr: float = option(0.02, "Largest learning rate of Muon, inside the blocks.", above=0, high=1)
    adam_lr: float = option(1e-3, "Largest learning rate of Adam, elsewhere.", above=0, high=1)
    warmup: int = option(50, "Steps over which learning rates rise.", low=1, high=10**6)
    weight_decay: float = option(0.05, "Weight decay inside the blocks.", low=0, high=10)
    seed: int = option(0, "Seed of weights and scenes.", low=0, high=2**31 - 1)
    bf16: bool = option(
        True, "Compute in bfloat16 where that is safe: twice as fast on CPUs that have it."
    )
    threads: int = option(2, "Cores to use; may change when resuming.", low=1, high=1024)
    measure_every: int = option(
        250, "Steps between checkpoints and measures of accuracy.", low=1, high=10**6
    )
    test_scenes: int = option(256, "Held-out scenes that measure accuracy.", low=32, high=10**5)

    def __post_init__(self) -> None:
        if self.batch % 2:
            raise ValueError("--batch must be even: every scene comes with its twin")
