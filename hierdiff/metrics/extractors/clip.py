"""CLIP as an extractor of the features of images and captions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from typing_extensions import override

from hierdiff.metrics import weights as files
from hierdiff.metrics.extractors.base import (
    OFFLINE,
    Extractor,
    extractors,
    normalized,
    pil_bicubic,
    sha256_of,
)


@extractors.register("clip")
class CLIP(Extractor):
    """Unit image embeddings of CLIP (arXiv 2103.00020), for FD-CLIP, CMMD and the CLIP score.

    weights: folder of a transformers CLIP model with `model.safetensors` and its tokenizer. The
    name says the architecture, as in clip-vit-l-14-336. Resize: Pillow's bicubic filter in 8 bits.
    """

    label = "FD-CLIP"
    MEAN_STD = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        folder = None if weights is None else Path(weights).expanduser()
        tensors = [] if folder is None else sorted(folder.glob("model*.safetensors"))
        if folder is None or not tensors:
            raise FileNotFoundError(
                f"weights={weights} is no folder with model.safetensors: clip needs that of a "
                f"transformers CLIP model, give it as weights=FOLDER; {OFFLINE}"
            )
        try:
            from transformers import CLIPModel
        except ImportError as error:
            raise ImportError(
                "extractor 'clip' needs transformers: pip install 'hierdiff[text]'"
            ) from error
        self.folder = folder
        self.network: Any = CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        ).float()
        vision = self.network.config.vision_config
        self.side, self.width = vision.image_size, self.network.config.projection_dim
        kind = {768: "b", 1024: "l", 1280: "h"}.get(vision.hidden_size, vision.hidden_size)
        self.name = f"clip-vit-{kind}-{vision.patch_size}-{self.side}"
        self.weights = sha256_of("".join(files.sha256(path) for path in tensors).encode())[:8]
        self.resize = f"pil-bicubic-{self.side}"
        self._freeze()

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = normalized(pil_bicubic(images, self.side).float() / 255, *self.MEAN_STD)
        pooled = self.network.vision_model(pixel_values=x).pooler_output
        return F.normalize(self.network.visual_projection(pooled), dim=1)

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit embeddings of captions; longer ones are cut to the length of the text encoder."""
        device = next(self.parameters()).device
        length = self.network.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(device)
        pooled = self.network.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return F.normalize(self.network.text_projection(pooled), dim=1)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )
