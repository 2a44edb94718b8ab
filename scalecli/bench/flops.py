"""Floating-point operations of a training step, counted rather than looked up."""

from __future__ import annotations

from scalecli.bench.config import BenchConfig
from scalecli.bench.models import build
from scalecli.core.errors import UsageError


def train_flops(bench: BenchConfig) -> int:
    """FLOPs of one sample, forward and backward (a multiply-add is two).

    Counted on the meta device with fused attention off: the counter misses part of fused SDPA.

    Raises:
        UsageError: there is no such model, or it cannot take such images.
    """
    import torch
    from timm.layers import set_fused_attn, use_fused_attn
    from torch.utils.flop_counter import FlopCounterMode

    size = bench.image_size
    assert size is not None, "settle the preset first"
    fused = use_fused_attn()
    set_fused_attn(False)
    try:
        with torch.device("meta"):
            model = build(bench)
            # Two samples: batch normalisation refuses to train on one.
            images = torch.empty(2, 3, size, size)
        with FlopCounterMode(display=False) as counter:
            model(images).sum().backward()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--model {bench.model} --image-size {size}: {error}") from error
    finally:
        set_fused_attn(bool(fused))
    return int(counter.get_total_flops()) // 2
