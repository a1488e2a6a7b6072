"""Training of the bundled codec: the Wan VAE network, narrow, on random clips of the world.

Squared error on the pixels, and noise on the latents against a light penalty on their power, which keeps them
smooth. At the end the encoder's and decoder's 1x1 convolutions absorb an affine map
per channel, so that the raw latents have the mean and deviation of Wan2.1's and its normalisation fits as it is.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..backbones.wan_vae import LATENT_CHANNELS, LATENT_MEAN, LATENT_STD, WanVAE
from .world import BACKGROUND, SIZE, random_scene, random_starts, render

LATENT_NOISE, POWER_WEIGHT = 0.1, 1e-4
CLIP_FRAMES, CROP, BATCH = 17, 64, 3


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 `(T, H, W, 3)` -> float `(3, T, H, W)` in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def random_clips(rng: np.random.Generator, count: int, frames: int, crop: int = SIZE) -> Tensor:
    """Pixels `(count, 3, frames, crop, crop)` of random training scenes, cut out at random places."""
    clips = []
    for _ in range(count):
        scene = random_scene(rng)
        top, left = rng.integers(0, SIZE - crop + 1, size=2)
        video = render(scene, random_starts(scene, rng), frames)
        clips.append(to_pixels(video[:, top:top + crop, left:left + crop]))
    return torch.stack(clips)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Squared error, heavier where the world differs from its background. (With an absolute error the network
    stays at the median, which is the background.)"""
    plain = target.new_tensor(BACKGROUND).view(1, 3, 1, 1, 1) / 127.5 - 1
    weight = 1 + 2 * ((target - plain).abs().amax(1, keepdim=True) > 0.05).float()
    return 5 * (weight * (output - target).square()).mean()


def train_codec(codec: WanVAE, minutes: float, seed: int, log: Callable[[dict], None], rate: float = 3e-3,
                decoder_only: bool = False) -> None:
    """Trains `codec` in place for `minutes` of wall time and folds the latent statistics in.

    decoder_only: leaves the latents as they are, so that a transformer trained on them stays good.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    codec.train()
    for part in (codec.encoder, codec.conv1):
        part.requires_grad_(not decoder_only)
    set_layout(codec, torch.channels_last_3d)
    trained = [p for p in codec.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)
    begin, step, running = time.monotonic(), 0, None
    while (spent := (time.monotonic() - begin) / 60) < minutes:
        optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50) * max(0.02, 1 - spent / minutes)
        pixels = random_clips(rng, BATCH, CLIP_FRAMES, CROP).to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            mean = codec.moments(pixels)[0].float()
            noise = LATENT_NOISE * torch.randn(mean.shape, generator=generator)
            output = codec.reconstruct(mean + noise).float()
        power = mean.square().mean()
        loss = reconstruction_loss(output, pixels) + POWER_WEIGHT * power
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        psnr = -10 * torch.log10((output.detach() - pixels).square().mean() / 4).item()
        running = psnr if running is None else 0.98 * running + 0.02 * psnr
        step += 1
        if step % 50 == 0:
            log({"what": "codec", "step": step, "minutes": round(spent, 2), "loss": round(loss.item(), 4),
                 "latent_power": round(power.item(), 3), "psnr_db": round(running, 2)})
    set_layout(codec.eval(), torch.contiguous_format)
    if not decoder_only:
        fold_statistics(codec, random_clips(rng, 24, 33))


def set_layout(codec: WanVAE, layout: torch.memory_format) -> None:
    """Puts the 3-D convolutions into a memory layout (channels last is several times faster in bfloat16)."""
    for module in codec.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=layout)


@torch.no_grad()
def fold_statistics(codec: WanVAE, pixels: Tensor) -> None:
    """Rescales the raw latents to Wan2.1's mean and deviation, exactly undone on the decoder's side."""
    latents = torch.cat([codec.moments(clip)[0] for clip in pixels.split(1)])
    target_mean, target_std = torch.tensor(LATENT_MEAN), torch.tensor(LATENT_STD)
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    gain = target_std / std
    shift = target_mean - mean * gain
    head, tail = codec.conv1, codec.conv2
    head.weight[:LATENT_CHANNELS] *= gain.view(-1, 1, 1, 1, 1)
    head.bias[:LATENT_CHANNELS] = head.bias[:LATENT_CHANNELS] * gain + shift
    head.bias[LATENT_CHANNELS:] += 2 * gain.log()
    tail.bias -= (tail.weight[:, :, 0, 0, 0] * (shift / gain)).sum(1)
    tail.weight /= gain.view(1, -1, 1, 1, 1)


@torch.no_grad()
def codec_psnr(codec: WanVAE, pixels: Tensor) -> float:
    """PSNR in dB over all pixels of the clips, through encode and decode."""
    error = torch.stack([(codec.decode(codec.encode(clip)).clamp(-1, 1) - clip).square().mean()
                         for clip in pixels.split(1)])
    return float(-10 * torch.log10(error.mean() / 4))

