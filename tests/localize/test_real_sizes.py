"""Every method on towers of real size with random weights: minutes, so marked slow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scalecli.localize import openclip
from scalecli.localize.load import subject_of

ABOUT_A_PASS_PER_FEATURE = {"scorecam"}
NAMES = ("ViT-B-32", "RN50", "ViT-B-16-SigLIP", "convnext_base")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_method_on_a_real_tower(name: str) -> None:
    plan = openclip.plan(name, "none")
    model = openclip.build(plan).requires_grad_(False)
    subject, methods = subject_of(model.visual)
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(3, plan.config["embed_dim"], generator=generator)
    with torch.no_grad():
        image = torch.randn(1, 3, 224, 224, generator=generator)
        pooled = torch.nn.functional.normalize(model.encode_image(image), dim=-1)
        own = pooled @ torch.nn.functional.normalize(text, dim=-1).T
        torch.testing.assert_close(subject.scores(image, text), own, rtol=1e-3, atol=1e-5)
    ph, pw = subject.patch
    before: dict[str, Any] = {k: v.clone() for k, v in model.visual.state_dict().items()}
    for height, width in ((224, 224), (336, 448), (448, 448)):
        image = torch.randn(1, 3, height // ph * ph, width // pw * pw, generator=generator)
        for method in methods.keys() - ABOUT_A_PASS_PER_FEATURE:
            maps = methods[method](subject, image, text)
            assert maps.shape == (1, 3, height // ph, width // pw), method
            assert bool(maps.isfinite().all()), method
    after = model.visual.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
