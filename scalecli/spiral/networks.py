"""Three-layer networks, trained for many seeds at once over a stacked leading axis.

The loss is the sum over seeds of each seed's mean, and Adam works element by element, so the
seeds never mix. Row s depends on its own data and seed only, up to floating point: a batched
product may add in another order when the stack has another height, and training amplifies
that last bit. The same stack on the same machine gives the same result.

Shape legend: S seeds, N training points, Q queries, B minibatch, D features in, F features
fed to the network, H hidden units, O outputs (1 logit for two classes, else one per class).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scalecli.spiral.classifier import Context, Labels, Points

HIDDEN = 32
LEARNING_RATE = 1e-2
FULL_BATCH_MAX_N = 1000
FULL_BATCH_STEPS = 1000
MINIBATCH_STEPS = 4000
MINIBATCH = 1024
FREQUENCIES = 64
FOURIER_SCALE = 2.5
"""Standard deviation of the random frequencies, in radians times 2π per outer radius."""
PREDICT_ROWS = 1 << 17
"""Rows, over all seeds, that one forward pass holds: bounds the memory."""

FeatureMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """What sets one network of the table apart from the next."""

    features: str
    """One of :data:`FEATURES`."""
    focal_gamma: float = 0.0
    """Focal loss (Lin et al. 2017); 0 is plain cross-entropy."""
    weight_decay: float = 0.0
    """Decoupled, on the weight matrices only."""
    layer_norm: bool = False
    """Normalise the hidden units after each tanh."""


class StackedNetwork:
    """F-32-32-O with tanh; S copies trained side by side with ``baddbmm``."""

    def __init__(self, recipe: Recipe, context: Context) -> None:
        self.recipe = recipe
        self.context = context
        self._device = torch.device(context.device)
        self._outputs = 1 if context.classes == 2 else context.classes
        self._features: FeatureMap = _plain
        self._weights: list[Tensor] = []
        self._biases: list[Tensor] = []
        self._only_S: list[int | None] = []

    def fit(self, x_SND: Points, y_SN: Labels, seeds: Sequence[int]) -> None:
        """Train all seeds: full batch up to N = 1,000, minibatches with a cosine decay above."""
        # A sample of one class says nothing about a border; whatever the network extrapolates
        # to is noise, so the answer is that class.
        self._only_S = [int(y_N[0]) if (y_N == y_N[0]).all() else None for y_N in y_SN]
        x_SND_ = torch.from_numpy(np.ascontiguousarray(x_SND, dtype=np.float32)).to(self._device)
        y_SN_ = torch.from_numpy(np.ascontiguousarray(y_SN, dtype=np.int64)).to(self._device)
        self._features = FEATURES[self.recipe.features](x_SND_, seeds, self.context)
        f_SNF = self._features(x_SND_)
        self._initialise(f_SNF.shape[2], seeds)
        self._train(f_SNF, y_SN_, seeds)

    def predict(self, x_SQD: Points) -> Labels:
        """Class indices [S, Q]."""
        s, q = x_SQD.shape[:2]
        out_SQ = np.empty((s, q), dtype=np.int64)
        step = max(1, PREDICT_ROWS // s)
        with torch.no_grad():
            for start in range(0, q, step):
                part = np.ascontiguousarray(x_SQD[:, start : start + step], dtype=np.float32)
                z_SQO = self._forward(self._features(torch.from_numpy(part).to(self._device)))
                chosen_SQ = (
                    (z_SQO[..., 0] > 0).long() if self._outputs == 1 else z_SQO.argmax(dim=2)
                )
                out_SQ[:, start : start + step] = chosen_SQ.cpu().numpy()
        for row, only in enumerate(self._only_S):
            if only is not None:
                out_SQ[row] = only
        return out_SQ

    def _initialise(self, inputs: int, seeds: Sequence[int]) -> None:
        """The initialisation of ``torch.nn.Linear``, from one generator per seed on the CPU."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        sizes = [inputs, HIDDEN, HIDDEN, self._outputs]
        self._weights, self._biases = [], []
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            for shape, into in (
                ((fan_in, fan_out), self._weights),
                ((1, fan_out), self._biases),
            ):
                stacked = torch.stack([torch.rand(shape, generator=g) for g in generators])
                started = (2 * stacked - 1) * bound
                into.append(started.to(self._device).requires_grad_())

    def _forward(self, h_SBH: Tensor) -> Tensor:
        last = len(self._weights) - 1
        for layer, (w, b) in enumerate(zip(self._weights, self._biases, strict=True)):
            h_SBH = torch.baddbmm(b, h_SBH, w)
            if layer < last:
                h_SBH = torch.tanh(h_SBH)
                if self.recipe.layer_norm:
                    # After the tanh: before it, unit scale would cap the steepness of the units.
                    # Without gain and shift: the next layer's weights can play that part.
                    h_SBH = functional.layer_norm(h_SBH, h_SBH.shape[-1:])
        return h_SBH

    def _train(self, f_SNF: Tensor, y_SN: Tensor, seeds: Sequence[int]) -> None:
        n = f_SNF.shape[1]
        full = n <= FULL_BATCH_MAX_N
        steps = FULL_BATCH_STEPS if full else MINIBATCH_STEPS
        optimiser = torch.optim.AdamW(
            [
                {"params": self._weights, "weight_decay": self.recipe.weight_decay},
                {"params": self._biases, "weight_decay": 0.0},
            ],
            lr=LEARNING_RATE,
            foreach=True,
        )
        generators = [np.random.default_rng(seed) for seed in seeds]
        row_S1 = torch.arange(len(seeds), device=self._device)[:, None]
        f_SBF, y_SB = f_SNF, y_SN
        for step in range(steps):
            if not full:
                draw_SB = torch.from_numpy(
                    np.stack([g.integers(0, n, MINIBATCH) for g in generators])
                ).to(self._device)
                f_SBF, y_SB = f_SNF[row_S1, draw_SB], y_SN[row_S1, draw_SB]
                for group in optimiser.param_groups:
                    group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = self._loss(self._forward(f_SBF), y_SB)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()

    def _loss(self, z_SBO: Tensor, y_SB: Tensor) -> Tensor:
        if self._outputs == 1:
            loss_SB = functional.binary_cross_entropy_with_logits(
                z_SBO[..., 0], y_SB.to(z_SBO.dtype), reduction="none"
            )
        else:
            loss_SB = functional.cross_entropy(z_SBO.transpose(1, 2), y_SB, reduction="none")
        if self.recipe.focal_gamma:
            # exp(−loss) is the probability given to the true class.
            loss_SB = (1 - torch.exp(-loss_SB)) ** self.recipe.focal_gamma * loss_SB
        return loss_SB.mean(dim=1).sum()


def _plain(x_SND: Tensor) -> Tensor:
    return x_SND


def _xy(x_SND: Tensor, seeds: Sequence[int], context: Context) -> FeatureMap:
    return _plain


def _polar(x_SND: Tensor, seeds: Sequence[int], context: Context) -> FeatureMap:
    """(r, θ) as in the article, scaled to comparable ranges; θ keeps its cut at ±π."""

    def features(x_SND: Tensor) -> Tensor:
        x, y = x_SND.unbind(dim=2)
        return torch.stack([POLAR_R * torch.hypot(x, y), POLAR_T * torch.atan2(y, x)], dim=2)

    return features


POLAR_R = 2.0
POLAR_T = 1 / math.pi


def _spiral(x_SND: Tensor, seeds: Sequence[int], context: Context) -> FeatureMap:
    """The true prior: r, and where in the turn the point lies once the spiral is unwound."""
    tip = math.radians(context.tip_degrees)

    def features(x_SND: Tensor) -> Tensor:
        x, y = x_SND.unbind(dim=2)
        r = torch.hypot(x, y)
        # Zero along the leading edge r = aθ, which ends at the tip: r = 1 at the tip's angle.
        phase = 2 * math.pi * context.turns * (r - 1) - (torch.atan2(y, x) - tip)
        return torch.stack([torch.cos(phase), torch.sin(phase), r], dim=2)

    return features


def _fourier(x_SND: Tensor, seeds: Sequence[int], context: Context) -> FeatureMap:
    """Random Fourier features (Rahimi & Recht 2007; Tancik et al. 2020), drawn per seed."""
    shape = (x_SND.shape[2], FREQUENCIES)
    # Offset, so that the frequencies are not the numbers that initialise the first layer.
    generators = [torch.Generator().manual_seed(seed + 1_000_003) for seed in seeds]
    drawn = torch.stack([torch.randn(shape, generator=g) for g in generators])
    b_SDF = FOURIER_SCALE * drawn.to(x_SND.device)

    def features(x_SND: Tensor) -> Tensor:
        angle_SNF = 2 * math.pi * torch.bmm(x_SND, b_SDF)
        return torch.cat([torch.cos(angle_SNF), torch.sin(angle_SNF)], dim=2)

    return features


def _raw(x_SND: Tensor, seeds: Sequence[int], context: Context) -> FeatureMap:
    """Each column to mean 0 and deviation 1 over the seed's own sample."""
    mean_S1D = x_SND.mean(dim=1, keepdim=True)
    std_S1D = x_SND.std(dim=1, keepdim=True, correction=0)
    # A constant column carries nothing; dividing by 1 leaves it at zero.
    std_S1D = torch.where(std_S1D > 1e-12, std_S1D, torch.ones_like(std_S1D))
    return lambda x_SND: (x_SND - mean_S1D) / std_S1D


FEATURES: dict[str, Callable[[Tensor, Sequence[int], Context], FeatureMap]] = {
    "xy": _xy,
    "polar": _polar,
    "spiral": _spiral,
    "fourier": _fourier,
    "raw": _raw,
}
"""Feature maps by name: fitted on the training points, then applied to any points."""
