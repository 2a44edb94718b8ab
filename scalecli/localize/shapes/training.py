"""Training of the shapes CLIP: contrastive, from scratch, on scenes made as it goes.

Every batch holds scenes and their twins, which differ in one attribute (:func:`.scenes.altered`),
and every scene comes with two captions: of all its objects, and of one of them. A caption
that happens to be true of another scene too is no negative for it, and the generator knows.

Batch number s depends on the seed and s alone, so a resumed run repeats the undisturbed one.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scalecli.core.errors import UsageError
from scalecli.core.files import atomic_path
from scalecli.localize.shapes.accuracy import held_out_accuracy
from scalecli.localize.shapes.captions import describe, truth
from scalecli.localize.shapes.config import TrainShapesConfig
from scalecli.localize.shapes.model import TRUNK, build, pixels
from scalecli.localize.shapes.muon import Muon
from scalecli.localize.shapes.scenes import SIZES, TEXTURES, altered, painted, plan
from scalecli.localize.shapes.tokenizer import tokenize
from scalecli.localize.vit import Tower

LARGEST_SCALE = math.log(100)
"""CLIP's bound on the logarithm of the logit scale."""


class Stage(NamedTuple):
    """A part of the curriculum."""

    until: float
    """Share of all steps after which it ends."""
    side: int
    """Pixels of the scenes' sides."""
    things: tuple[int, int]
    """Least and largest number of objects."""
    sizes: tuple[str, ...]
    textures: tuple[str, ...]
    keep: float
    """Share of patches that the image tower sees (Li et al., "Scaling Language-Image Pre-training
    via Masking", CVPR 2023); the last stage sees all."""


CURRICULUM = (
    Stage(0.25, 48, (1, 1), ("large",), ("plain",), 1.0),
    Stage(0.55, 64, (1, 2), SIZES, TEXTURES, 0.75),
    Stage(0.96, 96, (1, 4), SIZES, TEXTURES, 0.6),
    Stage(1.00, 96, (1, 4), SIZES, TEXTURES, 1.0),
)
"""From one large plain object to many of all sizes: the first lessons are cheap, and what is
hardest to learn, the shapes, is learned there."""


class Batch(NamedTuple):
    """Scenes, their captions and what is true."""

    images: Tensor
    """[B, 3, side, side], normalised."""
    ids: Tensor
    """[C, context]: caption c belongs to scene c mod B."""
    true: Tensor
    """[B, C], bool: which caption is true of which scene."""


@dataclass(frozen=True)
class Measure:
    """How training stands after a step."""

    step: int
    loss: float
    """Mean over the steps since the last measure."""
    seconds: float
    """Time spent on steps so far, over all resumed parts."""
    logit_scale: float
    held_out_pair: float
    """The three accuracies of :class:`~.accuracy.Accuracy` that matter, on held-out scenes."""
    shape: float
    binding: float

    def __str__(self) -> str:
        return (
            f"step {self.step:,}: loss {self.loss:.3f}, held-out pair {self.held_out_pair:.3f}, "
            f"shape {self.shape:.3f}, binding {self.binding:.3f}, {self.seconds:,.0f} s"
        )


def stage(config: TrainShapesConfig, step: int) -> Stage:
    """The stage that a step belongs to."""
    return next(s for s in CURRICULUM if step < s.until * config.steps)


def batch(config: TrainShapesConfig, step: int) -> Batch:
    """The batch of a step: a function of the seed and the step."""
    lesson = stage(config, step)
    rng = np.random.default_rng([config.seed, step])
    half = config.batch // 2
    first = [
        plan(
            "train",
            config.seed,
            step * half + i,
            side=lesson.side,
            things=lesson.things,
            sizes=lesson.sizes,
            textures=lesson.textures,
        )
        for i in range(half)
    ]
    plans = first + [altered(p, rng) for p in first]
    captions = [describe(p, rng, count=count) for count in (None, 1) for p in plans]
    ids = tokenize([_blur(str(c), rng) for c in captions])
    images = pixels([painted(p) for p in plans])
    return Batch(images, ids, torch.from_numpy(truth(plans, captions)))


def recipe(config: TrainShapesConfig) -> str:
    """Identity of what a config teaches: model, curriculum, and a batch of every stage.

    Weights and code that disagree on it do not belong together. Pixels are left out: their last
    bit may depend on the machine.
    """
    digest = hashlib.sha256(repr((TRUNK, CURRICULUM)).encode())
    ends = [0.0, *(s.until for s in CURRICULUM[:-1])]
    for begin in ends:
        lesson = batch(config, min(math.ceil(begin * config.steps), config.steps - 1))
        digest.update(lesson.ids.numpy().tobytes() + lesson.true.numpy().tobytes())
    return digest.hexdigest()[:32]


def _blur(caption: str, rng: np.random.Generator) -> str:
    """Now and then a word nobody knows, so that unknown words in prompts do no harm."""
    if rng.random() > 0.1:
        return caption
    words = caption.split()
    words.insert(int(rng.integers(len(words) + 1)), "?unknown?")
    return " ".join(words)


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, with several captions per image and no false negatives.

    Caption c is image c mod B's own. Its rivals are the captions that are not true of that image,
    and the images that it is not true of. With one caption per image and nothing true by chance
    this is CLIP's loss.

    Args:
        logits: [B, C].
        true: [B, C], bool.
    """
    images, captions = logits.shape
    own = torch.arange(captions)
    right = logits[own % images, own]
    # Far below any logit; with −∞ a row without rivals would have no gradient but NaN.
    wrong = logits.masked_fill(true, -1e4)
    per_image = torch.logaddexp(right, wrong.logsumexp(dim=1)[own % images]) - right
    per_caption = torch.logaddexp(right, wrong.logsumexp(dim=0)) - right
    return (per_image.mean() + per_caption.mean()) / 2


def image_features(tower: Tower, images: Tensor, keep: float, rng: torch.Generator) -> Tensor:
    """Image embeddings [B, E] from a random share of the patches.

    A scene smaller than the model's grid lies on a random window of it, the same for the batch:
    neighbours stay neighbours, and every position is trained from the start.
    """
    visual = tower.visual
    patches = visual.conv1(images)
    (gh, gw), (rows, columns) = patches.shape[-2:], tower.trained_grid
    top = int(torch.randint(rows - gh + 1, (), generator=rng))
    left = int(torch.randint(columns - gw + 1, (), generator=rng))
    learned = visual.positional_embedding
    window = learned[1:].unflatten(0, (rows, columns))[top : top + gh, left : left + gw]
    x = patches.flatten(2).transpose(1, 2) + window.flatten(0, 1)
    if keep < 1:
        order = torch.rand(x.shape[:2], generator=rng).argsort(dim=1)
        kept = order[:, : round(keep * gh * gw), None].expand(-1, -1, x.shape[2])
        x = x.gather(1, kept)
    cls = (visual.class_embedding + learned[0]).expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([cls.to(x.dtype), x], dim=1))
    for block in tower.blocks:
        x = tower.leave(tower.enter(block, x))
    return tower.pooled(x)


def text_features(text: Any, ids: Tensor) -> Tensor:
    """Text embeddings [C, E], as open_clip's text transformer computes them from ids [C, context].

    Attention is causal and the text is read off at its end, so the padding after the longest
    text of the batch can be left out: half of the work.
    """
    longest = int(ids.argmax(dim=1).max()) + 1
    x = text.token_embedding(ids[:, :longest]) + text.positional_embedding[:longest]
    x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:longest, :longest]))
    features: Tensor = x[torch.arange(len(ids)), ids.argmax(dim=1)] @ text.text_projection
    return features


class Trainer:
    """Model, optimiser and where they stand.

    Args:
        config: what to train.
    """

    def __init__(self, config: TrainShapesConfig) -> None:
        self.config = config
        self.model = build(config.seed)
        self.tower = Tower(self.model.visual)
        inner = [
            p for name, p in self.model.named_parameters() if ".resblocks." in name and p.ndim == 2
        ]
        inside = set(map(id, inner))
        outer = [p for p in self.model.parameters() if id(p) not in inside]
        self.optimisers = (
            Muon(inner, config.lr, weight_decay=config.weight_decay),
            torch.optim.AdamW(outer, config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self.peaks = (config.lr, config.adam_lr)
        self.step = 0
        self.seconds = 0.0

    def advance(self) -> float:
        """One step; its loss."""
        began = time.perf_counter()
        loss = self.loss(batch(self.config, self.step))
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser, peak in zip(self.optimisers, self.peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * self._warmth()
            optimiser.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, LARGEST_SCALE)
        self.step += 1
        self.seconds += time.perf_counter() - began
        return loss.item()

    def loss(self, data: Batch) -> Tensor:
        """The loss of a batch, with the share of patches of the present stage."""
        rng = torch.Generator().manual_seed(self.config.seed * 2**32 + self.step)
        keep = stage(self.config, self.step).keep
        # On a CPU the plain attention is faster than the fused one, whose backward pass in
        # bfloat16 is slow.
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16),
            sdpa_kernel(SDPBackend.MATH),
        ):
            images = image_features(self.tower, data.images, keep, rng)
            texts = text_features(self.model.text, data.ids)
        images = torch.nn.functional.normalize(images.float(), dim=-1)
        texts = torch.nn.functional.normalize(texts.float(), dim=-1)
        logits = self.model.logit_scale.exp() * images @ texts.T
        return contrastive_loss(logits, data.true)

    def _warmth(self) -> float:
        """The learning rate's factor: linear warm-up, then a cosine to 0."""
        warm = min(1.0, (self.step + 1) / self.config.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))

    def _identity(self) -> dict[str, Any]:
        """The config, but for what may change on the way."""
        return {**asdict(self.config), "threads": None}

    def save(self, path: Path) -> None:
        """Write all that resuming needs, atomically."""
        state = {
            "config": self._identity(),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            UsageError: it belongs to another config.
        """
        state = torch.load(path, weights_only=True)
        if state["config"] != self._identity():
            raise UsageError(f"{path}: made with another config; repeat its options")
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


def train(
    trainer: Trainer, checkpoint: Path, *, advanced: Callable[[float], None] = lambda loss: None
) -> Iterator[Measure]:
    """Train from where the trainer stands to the end.

    Args:
        trainer: a new one, or one that loaded a checkpoint.
        checkpoint: written after every measure, once the caller has taken it.
        advanced: told the loss of every step.

    Yields:
        A measure every ``config.measure_every`` steps and after the last.
    """
    config = trainer.config
    losses = []
    while trainer.step < config.steps:
        losses.append(trainer.advance())
        advanced(losses[-1])
        if trainer.step % config.measure_every == 0 or trainer.step == config.steps:
            found = held_out_accuracy(trainer.model, config.test_scenes)
            yield Measure(
                trainer.step,
                loss=sum(losses) / len(losses),
                seconds=trainer.seconds,
                logit_scale=trainer.model.logit_scale.exp().item(),
                held_out_pair=found.held_out_pair,
                shape=found.shape,
                binding=found.binding,
            )
            losses = []
            trainer.save(checkpoint)
