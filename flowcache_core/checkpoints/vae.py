"""The Wan2.1 VAE from a file: safetensors or the original .pth, any width, checked to the last shape."""

from pathlib import Path

import torch

from ..backbones.wan_vae import LATENT_MEAN, LATENT_STD, WanVAE
from .checkpoint import open_checkpoint
from .loading import fill
from .stored import CheckpointError
from .wan_layout import Shapes, compared, faults

MARK = "decoder.head.0.gamma"
OTHERS = {"decoder.up_blocks.0.resnets.0.norm1.gamma": "in diffusers names, which this version does not read; give the "
          "original Wan2.1_VAE.pth or ComfyUI's wan_2.1_vae.safetensors",
          "decoder.proj_in.weight": "MAGI-1's VAE, which this version does not read; leave --vae out and keep the "
          "latents"}


def load_vae(path: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> WanVAE:
    """A codec in evaluation mode, filled tensor by tensor. Raises CheckpointError where it is none or does not fit."""
    checkpoint = open_checkpoint(path)
    _check(path, checkpoint.shapes)
    with torch.device("meta"):
        codec = WanVAE(checkpoint.shapes[MARK][0])
    fill(codec, {name: (part, None, dtype) for name, part in checkpoint.tensors.items()}, device)
    codec.mean, codec.std = (torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1, 1)
                             for values in (LATENT_MEAN, LATENT_STD))
    return codec.eval().requires_grad_(False)


def _check(path: Path | str, shapes: Shapes) -> None:
    if MARK not in shapes:
        known = next((what for mark, what in OTHERS.items() if mark in shapes), "")
        raise CheckpointError(f"{path}: {known or f'not a Wan2.1 VAE (no {MARK}); give a file of that layout'}")
    width = shapes[MARK][0]
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in WanVAE(width).state_dict().items()}
    found = faults(*compared(shapes, expected))
    if found:
        raise CheckpointError(f"{path}: {found} (against a Wan2.1 VAE of width {width}"
                              f"{'' if width == 96 else ', the released one has 96'}); give a whole file")
