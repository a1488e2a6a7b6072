"""The bundled model: transformer, codec and text codebook, loaded from the files beside this module."""

from pathlib import Path

import torch

from ..backbones.wan import WanTransformer
from ..backbones.wan_vae import WanVAE
from ..checkpoints import CheckpointError, checked_config, read_header, read_tensors

WEIGHTS = Path(__file__).parent / "weights"
TRANSFORMER, CODEC = WEIGHTS / "transformer.safetensors", WEIGHTS / "codec.safetensors"


def load_transformer(path: Path = TRANSFORMER, dtype: torch.dtype = torch.float32) -> WanTransformer:
    """A Wan-layout transformer from a file, in evaluation mode. Raises CheckpointError where it does not fit."""
    try:
        config = checked_config(read_header(path).shapes)
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    with torch.device("meta"):
        model = WanTransformer(config)
    model.load_state_dict(read_tensors(path, dtype), assign=True)
    return model.eval().requires_grad_(False)


def load_codec(path: Path = CODEC) -> WanVAE:
    """A codec of the Wan2.1 VAE layout, fp32. Raises CheckpointError where it does not fit."""
    tensors = read_tensors(path, torch.float32)
    if "decoder.head.0.gamma" not in tensors:
        raise CheckpointError(f"{path}: not a Wan2.1 VAE (no decoder.head.0.gamma); give a file of that layout")
    codec = WanVAE(tensors["decoder.head.0.gamma"].shape[0])
    try:
        codec.load_state_dict(tensors)
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: tensors do not fit the Wan2.1 VAE ({fault})") from error
    return codec.eval().requires_grad_(False)
