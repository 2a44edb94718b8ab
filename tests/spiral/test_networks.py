"""The hand-written training against autograd: same start, same data, same steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from scalecli.spiral import networks
from scalecli.spiral.classifier import Context, Labels
from scalecli.spiral.features import FEATURES, Floats
from scalecli.spiral.networks import AdamW, Layers, Pass, Recipe, StackedNetwork, loss_gradient

RECIPES = {
    "plain": Recipe("xy"),
    "focal": Recipe("xy", focal_gamma=2.0),
    "decay": Recipe("xy", weight_decay=1e-2),
    "norm": Recipe("xy", layer_norm=True),
    "all": Recipe("xy", focal_gamma=2.0, weight_decay=1e-2, layer_norm=True),
}


def stack(outputs: int) -> tuple[Layers, Floats, Labels]:
    rng = np.random.default_rng(3)
    layers = Layers(3, (4, 8, 8, outputs))
    layers.initialise([5, 6, 7])
    x = rng.standard_normal((3, 50, 4)).astype(np.float32)
    return layers, x, rng.integers(0, max(2, outputs), (3, 50))


def autograd_loss(
    parameters: list[torch.Tensor], x: Floats, y: Labels, recipe: Recipe
) -> torch.Tensor:
    h = torch.from_numpy(x).double()
    weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        h = torch.baddbmm(b, h, w)
        if i + 1 < len(weights):
            h = torch.tanh(h)
            if recipe.layer_norm:
                h = functional.layer_norm(h, h.shape[-1:])
    target = torch.from_numpy(y)
    if h.shape[2] == 1:
        loss = functional.binary_cross_entropy_with_logits(
            h[..., 0], target.double(), reduction="none"
        )
    else:
        loss = functional.cross_entropy(h.transpose(1, 2), target, reduction="none")
    return ((1 - torch.exp(-loss)) ** recipe.focal_gamma * loss).mean(dim=1).sum()


def as_parameters(layers: Layers) -> list[torch.Tensor]:
    views = [*layers.weights, *layers.biases]
    return [torch.from_numpy(v.copy()).double().requires_grad_() for v in views]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_gradients_equal_autograd(recipe: Recipe, outputs: int) -> None:
    layers, x, y = stack(outputs)
    step, gradients = Pass(layers, recipe.layer_norm), Layers(3, layers.sizes)
    step.backward(loss_gradient(step.forward(x), y, recipe.focal_gamma), gradients)
    parameters = as_parameters(layers)
    torch.autograd.backward(autograd_loss(parameters, x, y, recipe))
    for ours, theirs in zip([*gradients.weights, *gradients.biases], parameters, strict=True):
        assert theirs.grad is not None
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_twenty_steps_equal_torch_adamw(recipe: Recipe) -> None:
    layers, x, y = stack(1)
    parameters = as_parameters(layers)
    half = len(parameters) // 2
    theirs = torch.optim.AdamW(
        [
            {"params": parameters[:half], "weight_decay": recipe.weight_decay},
            {"params": parameters[half:], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    ours, step, gradients = (
        AdamW(layers, recipe.weight_decay),
        Pass(layers, recipe.layer_norm),
        (Layers(3, layers.sizes)),
    )
    for _ in range(20):
        step.backward(loss_gradient(step.forward(x), y, recipe.focal_gamma), gradients)
        ours.step(gradients, 1e-2)
        theirs.zero_grad()
        torch.autograd.backward(autograd_loss(parameters, x, y, recipe))
        theirs.step()
    for mine, other in zip([*layers.weights, *layers.biases], parameters, strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=1e-2, atol=2e-4)


@pytest.mark.parametrize("n", [200, 3000])
def test_a_seed_is_the_same_to_the_bit_in_any_stack(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "FULL_BATCH_STEPS", 40)
    monkeypatch.setattr(networks, "MINIBATCH_STEPS", 40)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, n, 2))
    y = (x[..., 0] > 0).astype(np.int64)
    fitted = []
    for rows, seeds in (([0, 1, 2], [4, 5, 6]), ([1], [5])):
        model = StackedNetwork(Recipe("fourier", 2.0, 1e-3, True), Context())
        model.fit(x[rows], y[rows], seeds)
        fitted.append(model._layers.weights)
    for together, alone in zip(*fitted, strict=True):
        np.testing.assert_array_equal(together[1], alone[0])


def test_features_say_what_they_promise() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (2, 500, 2)).astype(np.float32)
    polar = FEATURES["polar"](x, [0, 1], Context())(x)
    r, theta = polar[..., 0] / 2, polar[..., 1] * np.pi
    np.testing.assert_allclose(r * np.cos(theta), x[..., 0], atol=1e-5)
    np.testing.assert_allclose(r * np.sin(theta), x[..., 1], atol=1e-5)
    raw = FEATURES["raw"](x, [0, 1], Context())(x)
    np.testing.assert_allclose(raw.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(raw.std(axis=1), 1, atol=1e-5)
    waves = FEATURES["fourier"](x, [0, 1], Context())(x)
    np.testing.assert_allclose((waves**2).sum(axis=2), 64, rtol=1e-4)
