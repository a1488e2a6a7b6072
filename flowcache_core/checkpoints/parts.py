"""Files that belong to a model but are no transformer, and what they are for."""

from .lora import looks_like_lora
from .wan_layout import Shapes

ENCODER = "a text encoder, not a transformer: encode prompts with it elsewhere and give them to --text-embeddings"
PARTS = {"decoder.middle.0.residual.0.gamma": ("Wan2.1 VAE layout", "a codec, not a transformer: give it to --vae"),
         "decoder.proj_in.weight": ("MAGI-1 VAE layout", "a codec that this version does not read"),
         "shared.weight": ("T5 text encoder", ENCODER), "token_embedding.weight": ("UMT5 text encoder", ENCODER)}
LORA = "a LoRA, not a model: give its base to --model and this file to --lora"


def known_part(shapes: Shapes) -> tuple[str, str]:
    """What a file is, and what to do with it; both "" where it is none of these."""
    if looks_like_lora(shapes):
        return "LoRA", LORA
    return next((found for mark, found in PARTS.items() if mark in shapes), ("", ""))
