"""The authors' equations, one image and one head at a time, on open_clip's own modules.

Written from the papers and the authors' code as references for the tests, without anything of the
package: loops where there are loops in the equations, sequence-first, no batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length


def streams(model: Any, image: Tensor) -> list[Tensor]:
    """Tokens [T, D] entering each block, and after the last, of one image [3, height, width]."""
    x = model.visual._embeds(image[None])
    found = [x[0]]
    for block in model.visual.transformer.resblocks:
        x = block(x)
        found.append(x[0])
    return found


def heads(block: Any, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(q, k, v) of each head, [T, d], from tokens [T, D] that enter the block."""
    width = x.shape[-1]
    count = block.attn.num_heads
    d = width // count
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    q, k, v = (
        block.ln_1(x) @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width]
        for i in range(3)
    )
    return [
        (q[:, h * d : (h + 1) * d], k[:, h * d : (h + 1) * d], v[:, h * d : (h + 1) * d])
        for h in range(count)
    ]


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, dim=-1)


def scale(q: Tensor) -> float:
    return 1 / math.sqrt(q.shape[-1])


def cosines(model: Any, patches: Tensor, text: Tensor) -> Tensor:
    """[P, N] of patches [N, D] before the final norm and projection, and texts [P, E]."""
    visual = model.visual
    return unit(text) @ unit(visual.ln_post(patches) @ visual.proj).T


def attention_alone(
    model: Any, image: Tensor, text: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """The last block without residual and MLP; ``attend`` gives [T, d] of q, k, v."""
    block = model.visual.transformer.resblocks[-1]
    x = streams(model, image)[-2]
    out = block.attn.out_proj(torch.cat([attend(*head) for head in heads(block, x)], dim=-1))
    return cosines(model, out[1:], text)


def sclip(model: Any, image: Tensor, text: Tensor) -> Tensor:
    block = model.visual.transformer.resblocks[-1]
    x = streams(model, image)[-2]
    outputs = []
    for q, k, v in heads(block, x):
        q_attn, k_attn = q @ q.T * scale(q), k @ k.T * scale(k)
        outputs.append((softmax(q_attn) + softmax(k_attn)) @ v)
    x = x + block.attn.out_proj(torch.cat(outputs, dim=-1))
    x = x + block.mlp(block.ln_2(x))
    return cosines(model, x[1:], text)


def clearclip(model: Any, image: Tensor, text: Tensor) -> Tensor:
    return attention_alone(model, image, text, lambda q, k, v: softmax(q @ q.T * scale(q)) @ v)


def neighbourhood(grid: tuple[int, int], sigma: float = 5.0) -> Tensor:
    """[T, T], a Gaussian over the distance of patches, nothing for the class token."""
    gh, gw = grid
    omega = torch.zeros(1 + gh * gw, 1 + gh * gw)
    for i in range(gh * gw):
        for j in range(gh * gw):
            squared = (i // gw - j // gw) ** 2 + (i % gw - j % gw) ** 2
            omega[1 + i, 1 + j] = math.exp(-squared / (2 * sigma**2))
    return omega


def naclip(model: Any, image: Tensor, text: Tensor) -> Tensor:
    omega = neighbourhood((image.shape[1] // 8, image.shape[2] // 8))
    return attention_alone(
        model, image, text, lambda q, k, v: softmax(k @ k.T * scale(k) + omega) @ v
    )


def pearl(model: Any, image: Tensor, text: Tensor) -> Tensor:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        w = q.norm(dim=1)
        w[0] = 0
        w = w / (w.sum() + 1e-6)
        q_mean = sum(w[t] * q[t] for t in range(len(q)))
        k_mean = sum(w[t] * k[t] for t in range(len(k)))
        q_c, k_c = q - q_mean, k - k_mean
        m = k_c.T @ q_c
        a = m.T @ m
        eye = torch.eye(len(a))
        y = a / a.norm() + 1e-6 * eye
        z = eye
        for _ in range(5):
            t = 0.5 * (3 * eye - z @ y)
            y = y @ t
            z = t @ z
        r = m @ z / a.norm().sqrt()
        return softmax(scale(q) * q @ (k @ r).T + 0.08 * (k_c @ k_c.T) * scale(q)) @ v

    return attention_alone(model, image, text, attend)


def legrad(model: Any, image: Tensor, text: Tensor, blocks: int = 2) -> Tensor:
    """[P, N]: gradients with respect to attention matrices that are there as such."""
    visual = model.visual
    passed = streams(model, image)
    total = torch.zeros(len(text), len(passed[0]))
    for index in range(len(passed) - 1 - blocks, len(passed) - 1):
        block = visual.transformer.resblocks[index]
        x = passed[index].detach()
        for p in range(len(text)):
            attention, outputs = [], []
            for q, k, v in heads(block, x):
                a = softmax(q.detach() @ k.detach().T * scale(q)).requires_grad_()
                attention.append(a)
                outputs.append(a @ v.detach())
            y = x + block.attn.out_proj(torch.cat(outputs, dim=-1))
            y = y + block.mlp(block.ln_2(y))
            score = unit(visual.ln_post(y.mean(dim=0)) @ visual.proj) @ unit(text[p])
            slopes = torch.autograd.grad(score, attention)
            mean = torch.stack([slope.clamp(min=0) for slope in slopes]).mean(dim=0)
            total[p] += mean.mean(dim=0)
    return total[:, 1:]


def sc_clip(model: Any, image: Tensor, text: Tensor, neighbours: int = 30) -> Tensor:
    """For a tower of 12 blocks; the indices are those of the authors' list of block outputs."""
    gw = image.shape[2] // 8
    passed = streams(model, image)
    feats = passed[1:-1]
    x = feats[-1]
    block = model.visual.transformer.resblocks[-1]
    others = len(x) - 2
    odd = outliers(x[1:], neighbours if neighbours <= others else others // 2)

    def repaired(patches: Tensor) -> Tensor:
        result = patches.clone()
        for i in odd:
            around = [
                j
                for j in range(len(patches))
                if max(abs(i // gw - j // gw), abs(i % gw - j % gw)) == 1 and j not in odd
            ]
            if around:
                result[i] = torch.stack([patches[j] for j in around]).mean(dim=0)
        return result

    def average(patches: Tensor, similarity: Tensor) -> Tensor:
        kept = similarity.clone()
        kept[kept < 0.4] = 0
        return kept / (kept.sum(dim=1, keepdim=True) + 1e-6) @ patches

    middle = unit(repaired(feats[8][1:]))
    middle = middle @ middle.T

    def attend(patches: Tensor) -> Tensor:
        centred = (middle - middle.mean()) * 3
        centred[centred < 0] = float("-inf")
        outputs = []
        for _q, k, v in heads(block, patches):
            outputs.append((softmax(centred) + softmax(k @ k.T * scale(k))) / 2 @ v)
        return block.attn.out_proj(torch.cat(outputs, dim=-1))  # type: ignore[no-any-return]

    early = unit(feats[3][1:])
    early = early @ early.T
    y = attend(average(repaired(x[1:]), middle)) + 0.3 * x[:1]
    y = average(y, early)
    fused = torch.stack(feats[3:10]).sum(dim=0)
    y = y + average(attend(fused[1:]) + 0.3 * fused[:1], early)
    return cosines(model, y, text)


def outliers(patches: Tensor, neighbours: int) -> list[int]:
    """The authors' local outlier factor, and who is above its 95th percentile."""
    patches = patches.detach().double()
    count = len(patches)
    distance = torch.tensor([[float((a - b).norm()) ** 2 for b in patches] for a in patches])
    near = [sorted(range(count), key=lambda j: float(distance[i, j]))[1:] for i in range(count)]
    near = [order[:neighbours] for order in near]
    density = []
    for i in range(count):
        own = distance[i, near[i][-1]]
        reach = [max(float(distance[i, j]), float(own)) for j in near[i]]
        density.append(neighbours / (sum(reach) / len(reach)))
    factor = torch.tensor(
        [sum(density[j] / density[i] for j in near[i]) / neighbours for i in range(count)]
    )
    return torch.where(factor > torch.quantile(factor, 0.95))[0].tolist()


def pamr(image: Tensor, maps: Tensor, iterations: int = 10) -> Tensor:
    """By convolution with shift kernels, of an image [1, 3, h, w] and maps [1, P, h, w]."""
    dilations = (8, 16)
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]

    def convolved(planes: Tensor, kernels: Tensor) -> Tensor:
        b, c, h, w = planes.shape
        flat = planes.reshape(b * c, 1, h, w)
        found = [
            F.conv2d(F.pad(flat, [d] * 4, mode="replicate"), kernels, dilation=d) for d in dilations
        ]
        return torch.cat(found, dim=1).reshape(b, c, -1, h, w)

    copy = torch.zeros(8, 1, 3, 3)
    for n, (y, x) in enumerate(shifts):
        copy[n, 0, y, x] = 1
    difference = -copy
    difference[:, 0, 1, 1] = 1
    everything = torch.eye(9).reshape(9, 1, 3, 3)
    deviation = convolved(image, everything).std(dim=2, keepdim=True)
    weights = -convolved(image, difference).abs() / (1e-8 + 0.1 * deviation)
    weights = weights.mean(dim=1, keepdim=True).softmax(dim=2)
    for _ in range(iterations):
        maps = (convolved(maps, copy) * weights).sum(dim=2)
    return maps


def resclip(
    model: Any,
    image: Tensor,
    text: Tensor,
    *,
    feedback: bool,
    threshold: float = 0.11,
) -> tuple[Tensor, Tensor]:
    """For a tower of 12 blocks: cosines [P, N] and the labels [gh, gw] of the first round."""
    gh, gw = image.shape[1] // 8, image.shape[2] // 8
    passed = streams(model, image)
    resblocks = list(model.visual.transformer.resblocks)
    maps = []
    for block, x in zip(resblocks[:-1], passed[:-2], strict=True):
        maps.append([softmax(q @ k.T * scale(q)) for q, k, _ in heads(block, x)])
    crossed = [torch.stack([maps[i][h] for i in range(5, 9)]).mean(dim=0) for h in range(4)]
    omega = neighbourhood((gh, gw))
    block = resblocks[-1]

    def attend(attraction: Tensor | None) -> Tensor:
        outputs = []
        for h, (_q, k, v) in enumerate(heads(block, passed[-2])):
            weights = k @ k.T * scale(k)
            if attraction is not None:
                weights = 1.8 * ((1 - 0.7) * weights + 0.7 * attraction / attraction.max())
            weights = softmax(weights + omega)
            weights = 2.0 * ((1 - 0.4) * weights + 0.4 * crossed[h])
            outputs.append(weights @ v)
        out = block.attn.out_proj(torch.cat(outputs, dim=-1))
        return cosines(model, out[1:], text)

    first = attend(None)
    logits = F.interpolate(
        first.reshape(1, -1, gh, gw), size=image.shape[1:], mode="bilinear", align_corners=False
    )
    probability = torch.softmax(40 * pamr(image[None], logits)[0], dim=0)
    pixels = probability.argmax(dim=0)
    pixels[probability.max(dim=0).values < threshold] = 0
    labels = torch.zeros(gh, gw, dtype=torch.long)
    for y in range(gh):
        for column in range(gw):
            patch = pixels[8 * y : 8 * y + 8, 8 * column : 8 * column + 8].flatten()
            labels[y, column] = torch.bincount(patch).argmax()
    return (attend(attraction_of(labels)) if feedback else first), labels


def attraction_of(labels: Tensor, sigma: float = 5.0) -> Tensor:
    gh, gw = labels.shape
    count = gh * gw
    places = [(i // gw, i % gw) for i in range(count)]
    longest = max(gh, gw) - 1
    t = torch.linspace(0, 1, steps=longest + 1)
    same = torch.zeros(count, count)
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            if labels[a] != labels[b]:
                continue
            apart = max(abs(a[0] - b[0]), abs(a[1] - b[1]))
            way = [
                tuple(int((a[c] * (1 - t[s]) + b[c] * t[s]).round()) for c in (0, 1))
                for s in range(apart + 1)
            ]
            broken = any(labels[place] != labels[a] for place in way)
            same[i, j] = math.exp(-apart / longest) if broken else 1
    size = min(count, int(6 * sigma + 1))
    size += 1 - size % 2
    kernel = torch.tensor([math.exp(-((n - size // 2) ** 2) / (2 * sigma**2)) for n in range(size)])
    kernel = kernel / kernel.sum()
    blurred = torch.zeros(count, count)
    for j in range(count):
        for n in range(size):
            source = j + n - size // 2
            if 0 <= source < count:
                blurred[:, j] += kernel[n] * same[:, source]
    attraction = torch.zeros(count + 1, count + 1)
    attraction[1:, 1:] = blurred / (blurred.sum(dim=1, keepdim=True) + 1e-8)
    return attraction
