"""The host's network: what it is, and the embeddings that a run asks for outside of a forward."""

from typing import Any

import torch
from comfy.ldm.wan.model import WanModel, sinusoidal_embedding_1d
from torch import Tensor

from ...flowcache_core.backbones.backbone import Sizes

LAYOUTS = ("WanModel", "CausalWanModel")   # other subclasses take extra tokens or frames


def network_of(model: Any) -> WanModel:
    """The diffusion network of a loaded model. Raises ValueError where it is not of the Wan2.1 layout."""
    network = getattr(model, "diffusion_model", None)
    if type(network).__name__ not in LAYOUTS or not isinstance(network, WanModel):
        raise ValueError(f"model of class {type(network).__name__}: expected an autoregressive video model of the "
                         "Wan2.1 text-to-video layout; connect Load AR Video Model, or load such a checkpoint")
    return network


def sizes_of(network: WanModel) -> Sizes:
    return Sizes(network.in_dim, network.patch_size[1], network.num_layers, network.num_heads,
                 network.dim // network.num_heads, network.rope_embedder.theta)


def inference_dtype(model: Any) -> torch.dtype:
    """The dtype that the host computes in; old hosts do not say it in one word."""
    if hasattr(model, "get_dtype_inference"):
        return model.get_dtype_inference()
    return model.manual_cast_dtype or model.get_dtype()


def time_modulation(network: WanModel, timestep: Tensor, dtype: torch.dtype) -> Tensor:
    """`(B, F) -> (B, F, 6, D)`, as the network computes it."""
    waves = sinusoidal_embedding_1d(network.freq_dim, timestep.flatten()).to(dtype)
    embedding = network.time_embedding(waves).reshape(*timestep.shape, -1)
    return network.time_projection(embedding).unflatten(-1, (6, network.dim))


def patch_tokens(network: WanModel, latent: Tensor, dtype: torch.dtype) -> Tensor:
    """`(B, C, F, h, w) -> (B, N, D)`, as the network computes it."""
    return network.patch_embedding(latent.float()).to(dtype).flatten(2).transpose(1, 2)


def rope(network: WanModel, frames: tuple[int, ...], height: int, width: int, device: torch.device,
         options: dict[str, Any]) -> Tensor:
    """Rotations `(1, N, 1, d/2, 2, 2)` of latent frames at these places, fp32: half precision merges places above
    256. Places need not be consecutive."""
    known = {"transformer_options": options} if "rope_options" in options else {}
    runs, begin = [], 0
    for i in range(1, len(frames) + 1):
        if i == len(frames) or frames[i] != frames[i - 1] + 1:
            runs.append((frames[begin], i - begin))
            begin = i
    parts = [network.rope_encode(count, height, width, t_start=start, device=device, dtype=torch.float32, **known)
             for start, count in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
