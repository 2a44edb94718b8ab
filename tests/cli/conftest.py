"""A model that real processes can load in no time."""

from __future__ import annotations

import json
from typing import Any

import pytest

CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random CLIP as a folder, so that every process can load the same one."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CLIP).state_dict(), folder / "open_clip_model.safetensors")
    text = json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}})
    (folder / "open_clip_config.json").write_text(text)
    return f"local-dir:{folder}"
