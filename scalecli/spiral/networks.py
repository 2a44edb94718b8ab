"""Three-layer networks, trained for many seeds at once over a stacked leading axis.

Forward and backward pass are written out in numpy. At 32 hidden units a step is a dozen small
products and a tanh: what a framework spends on dispatch, on a slower tanh and on slower small
products costs several times the arithmetic. A GPU would wait for work.

Seeds never mix: every product is taken seed by seed, every other operation element by element.

Shape legend: S seeds, N training points, Q queries, B minibatch, D features in, F features
fed to the network, H hidden units, O outputs (1 logit for two classes, else one per class).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scalecli.spiral.classifier import Context, Labels, Points
from scalecli.spiral.features import FEATURES, FeatureMap, Floats, plain

HIDDEN = 32
LEARNING_RATE = 1e-2
FULL_BATCH_MAX_N = 1000
FULL_BATCH_STEPS = 1000
MINIBATCH_STEPS = 4000
MINIBATCH = 1024
PREDICT_ROWS = 1 << 17
"""Rows, over all seeds, that one forward pass holds: bounds the memory."""
NORM_EPS = np.float32(1e-5)
TINY = np.float32(1e-30)
"""Keeps the logarithm of a probability finite; far below what float32 keeps of 1 − p."""


@dataclass(frozen=True)
class Recipe:
    """What sets one network of the table apart from the next."""

    features: str
    """One of :data:`~scalecli.spiral.features.FEATURES`."""
    focal_gamma: float = 0.0
    """Focal loss (Lin et al. 2017); 0 is plain cross-entropy."""
    weight_decay: float = 0.0
    """Decoupled, on the weight matrices only."""
    layer_norm: bool = False
    """Normalise the hidden units after each tanh."""


class StackedNetwork:
    """F-32-32-O with tanh; S copies trained side by side."""

    def __init__(self, recipe: Recipe, context: Context) -> None:
        self.recipe = recipe
        self.context = context
        self._outputs = 1 if context.classes == 2 else context.classes
        self._features: FeatureMap = plain
        self._layers = Layers(0, (1,))
        self._only_S: list[int | None] = []

    def fit(self, x_SND: Points, y_SN: Labels, seeds: Sequence[int]) -> None:
        """Train all seeds: full batch up to N = 1,000, minibatches with a cosine decay above."""
        # A sample of one class says nothing about a border; whatever the network extrapolates
        # to is noise, so the answer is that class.
        self._only_S = [int(y_N[0]) if (y_N == y_N[0]).all() else None for y_N in y_SN]
        x_SND_ = np.ascontiguousarray(x_SND, dtype=np.float32)
        self._features = FEATURES[self.recipe.features](x_SND_, seeds, self.context)
        f_SNF = np.ascontiguousarray(self._features(x_SND_), dtype=np.float32)
        self._layers = Layers(len(seeds), (f_SNF.shape[2], HIDDEN, HIDDEN, self._outputs))
        self._layers.initialise(seeds)
        self._train(f_SNF, y_SN, seeds)

    def predict(self, x_SQD: Points) -> Labels:
        """Class indices [S, Q]."""
        s, q = x_SQD.shape[:2]
        out_SQ = np.empty((s, q), dtype=np.int64)
        step = max(1, PREDICT_ROWS // s)
        for start in range(0, q, step):
            part = np.ascontiguousarray(x_SQD[:, start : start + step], dtype=np.float32)
            z_SQO = Pass(self._layers, self.recipe.layer_norm).forward(self._features(part))
            out_SQ[:, start : start + step] = (
                z_SQO[..., 0] > 0 if self._outputs == 1 else z_SQO.argmax(axis=2)
            )
        for row, only in enumerate(self._only_S):
            if only is not None:
                out_SQ[row] = only
        return out_SQ

    def _train(self, f_SNF: Floats, y_SN: Labels, seeds: Sequence[int]) -> None:
        s, n = y_SN.shape
        full = n <= FULL_BATCH_MAX_N
        steps = FULL_BATCH_STEPS if full else MINIBATCH_STEPS
        adam = AdamW(self._layers, self.recipe.weight_decay)
        gradients = Layers(s, self._layers.sizes)
        step_pass = Pass(self._layers, self.recipe.layer_norm)
        generators = [np.random.default_rng([seed, 2]) for seed in seeds]
        rows, labels = f_SNF.reshape(s * n, -1), np.ascontiguousarray(y_SN).reshape(-1)
        first_S1 = n * np.arange(s)[:, None]
        f_SBF, y_SB, rate = f_SNF, y_SN, LEARNING_RATE
        for step in range(steps):
            if not full:
                draw_SB = np.stack([g.integers(0, n, MINIBATCH) for g in generators]) + first_S1
                f_SBF, y_SB = rows.take(draw_SB, axis=0), labels.take(draw_SB)
                rate = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            z_SBO = step_pass.forward(f_SBF)
            step_pass.backward(loss_gradient(z_SBO, y_SB, self.recipe.focal_gamma), gradients)
            adam.step(gradients, rate)


class Layers:
    """Weights [S, in, out] and biases [S, 1, out] of a stack, as views into one flat array.

    One array, because the optimiser then takes one step over all parameters at once; the
    weights come first, so that decay touches a prefix.
    """

    def __init__(self, seeds: int, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        pairs = list(pairwise(self.sizes))
        shapes = [(seeds, i, o) for i, o in pairs] + [(seeds, 1, o) for _, o in pairs]
        self.flat: Floats = np.zeros(sum(map(math.prod, shapes)), dtype=np.float32)
        views: list[Floats] = []
        start = 0
        for shape in shapes:
            views.append(self.flat[start : start + math.prod(shape)].reshape(shape))
            start += math.prod(shape)
        self.weights, self.biases = views[: len(pairs)], views[len(pairs) :]
        self.decayed = sum(w.size for w in self.weights)

    def initialise(self, seeds: Sequence[int]) -> None:
        """Uniform in ±1/sqrt(in) for weights and biases, from one generator per seed."""
        generators = [np.random.default_rng([seed, 0]) for seed in seeds]
        for w, b in zip(self.weights, self.biases, strict=True):
            bound = 1 / math.sqrt(w.shape[1])
            for row, generator in enumerate(generators):
                w[row] = generator.uniform(-bound, bound, w.shape[1:])
                b[row] = generator.uniform(-bound, bound, b.shape[1:])


class Pass:
    """One forward pass, and the backward pass that needs what it left behind.

    Its arrays are kept from step to step: fresh ones of this size cost more than the arithmetic
    on them, in page faults. The outputs of a forward pass hold until the next.
    """

    def __init__(self, layers: Layers, norm: bool) -> None:
        self.layers = layers
        self.norm = norm
        self._inputs: list[Floats] = []
        """What entered each layer."""
        self._squashed: list[Floats] = []
        """tanh of each hidden layer."""
        self._spreads: list[Floats] = []
        """1 / standard deviation of each hidden layer's units, [S, B, 1]."""
        self._kept: dict[tuple[str, int], Floats] = {}

    def forward(self, h_SBF: Floats) -> Floats:
        """Outputs [S, B, O]."""
        self._inputs, self._squashed, self._spreads = [], [], []
        last = len(self.layers.weights) - 1
        for layer, (w, b) in enumerate(zip(self.layers.weights, self.layers.biases, strict=True)):
            self._inputs.append(h_SBF)
            h_SBF = np.matmul(h_SBF, w, out=self._room("out", layer, h_SBF, w.shape[2]))
            h_SBF += b
            if layer < last:
                np.tanh(h_SBF, out=h_SBF)
                self._squashed.append(h_SBF)
                if self.norm:
                    # After the tanh: before it, unit scale would cap the steepness of the units.
                    # Without gain and shift: the next layer's weights can play that part.
                    h_SBF = self._normalise(h_SBF, layer)
        return h_SBF

    def backward(self, d_SBO: Floats, into: Layers) -> None:
        """Parameter gradients, from the loss gradient d [S, B, O] at the outputs."""
        for layer in range(len(self.layers.weights) - 1, -1, -1):
            h_SBI = self._inputs[layer]
            np.matmul(h_SBI.transpose(0, 2, 1), d_SBO, out=into.weights[layer])
            into.biases[layer][:] = _column_sums(d_SBO)
            if not layer:
                return
            w_SOI = self.layers.weights[layer].transpose(0, 2, 1)
            width = w_SOI.shape[2]
            # One output makes the product an outer one, which matmul does at half the speed.
            product = np.multiply if w_SOI.shape[1] == 1 else np.matmul
            d_SBO = product(d_SBO, w_SOI, out=self._room("gradient", layer, d_SBO, width))
            scratch = self._room("scratch", 0, d_SBO, width)
            if self.norm:
                # The layer's input is the normalised value x̂: d ← (d − mean(d) − x̂·mean(d·x̂))/σ.
                along = _row_means(np.multiply(d_SBO, h_SBI, out=scratch))
                d_SBO -= _row_means(d_SBO)
                d_SBO -= np.multiply(h_SBI, along, out=scratch)
                d_SBO *= self._spreads[layer - 1]
            np.square(self._squashed[layer - 1], out=scratch)
            d_SBO *= np.subtract(np.float32(1), scratch, out=scratch)

    def _normalise(self, h_SBH: Floats, layer: int) -> Floats:
        centred = self._room("normal", layer, h_SBH, h_SBH.shape[2])
        scratch = self._room("scratch", 0, h_SBH, h_SBH.shape[2])
        np.subtract(h_SBH, _row_means(h_SBH), out=centred)
        spread = np.reciprocal(np.sqrt(_row_means(np.square(centred, out=scratch)) + NORM_EPS))
        self._spreads.append(spread)
        centred *= spread
        return centred

    def _room(self, name: str, layer: int, like_SBX: Floats, width: int) -> Floats:
        """The kept array [S, B, width] for one purpose."""
        shape = (*like_SBX.shape[:2], width)
        kept = self._kept.get((name, layer))
        if kept is None or kept.shape != shape:
            kept = self._kept[name, layer] = np.empty(shape, dtype=np.float32)
        return kept


class AdamW:
    """Adam (Kingma & Ba 2015) with decoupled decay of the weights (Loshchilov & Hutter 2019)."""

    BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

    def __init__(self, layers: Layers, decay: float) -> None:
        self.layers = layers
        self.decay = decay
        self._mean = np.zeros_like(layers.flat)
        self._square = np.zeros_like(layers.flat)
        self._steps = 0

    def step(self, gradients: Layers, rate: float) -> None:
        """Move the parameters by one step of the given learning rate."""
        self._steps += 1
        g, p = gradients.flat, self.layers.flat
        self._mean += np.float32(1 - self.BETA1) * (g - self._mean)
        self._square += np.float32(1 - self.BETA2) * (g * g - self._square)
        if self.decay:
            p[: self.layers.decayed] *= np.float32(1 - rate * self.decay)
        root = np.sqrt(self._square)
        root *= np.float32(1 / math.sqrt(1 - self.BETA2**self._steps))
        root += np.float32(self.EPS)
        p -= np.float32(rate / (1 - self.BETA1**self._steps)) * self._mean / root


def loss_gradient(z_SBO: Floats, y_SB: Labels, gamma: float) -> Floats:
    """Gradient [S, B, O] of the sum over seeds of the mean focal loss, at the logits.

    Focal loss (1 − p)^γ·CE with p = exp(−CE) the probability of the true class; its gradient is
    cross-entropy's, q − onehot, times (1 − p)^γ + γ (1 − p)^(γ−1) p·CE.
    """
    if z_SBO.shape[2] == 1:
        q = _sigmoid(z_SBO)
        truth = y_SB[..., None].astype(np.float32)
        p = np.where(truth > 0, q, 1 - q)
        d: Floats = q - truth
    else:
        e = np.exp(z_SBO - z_SBO.max(axis=2, keepdims=True))
        d = np.divide(e, e.sum(axis=2, keepdims=True), dtype=np.float32)
        p = np.take_along_axis(d, y_SB[..., None], axis=2)
        np.put_along_axis(d, y_SB[..., None], p - 1, axis=2)
    d /= np.float32(y_SB.shape[1])
    if gamma:
        miss = 1 - p
        cross_entropy = -np.log(np.maximum(p, TINY))
        factor = gamma * np.power(miss, gamma - 1) * p * cross_entropy
        d *= np.power(miss, gamma) + factor
    return np.asarray(d, dtype=np.float32)


def _sigmoid(z: Floats) -> Floats:
    # tanh saturates without overflow, and has a vectorised kernel.
    half: NDArray[np.float32] = np.tanh(z * np.float32(0.5))
    half *= np.float32(0.5)
    half += np.float32(0.5)
    return half


def _row_means(h_SBH: Floats) -> Floats:
    """Mean over the units, [S, B, 1]: a product with ones, which beats a short reduction."""
    width = h_SBH.shape[2]
    return h_SBH @ np.full((width, 1), 1 / width, dtype=np.float32)


def _column_sums(d_SBO: Floats) -> Floats:
    """Sum over the batch, [S, 1, O]."""
    return np.ones((1, d_SBO.shape[1]), dtype=np.float32) @ d_SBO
