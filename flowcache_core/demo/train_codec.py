"""Training of the bundled codec: the Wan VAE network, narrow, on random clips of the world.

Squared error on the pixels; noise on the latents, against a light penalty on their power, spreads what matters over
the channels; and the mean colours of every cell must be readable by a linear map, or else colours end up as shades of
one amplitude, which a denoiser confuses. At the end the encoder's and decoder's 1x1 convolutions absorb an affine map
of the channels, so that the raw latents have the mean of Wan2.1's, its normalisation fits as it is, and no direction
drowns the others.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.wan_vae import LATENT_CHANNELS, LATENT_MEAN, LATENT_STD, WanVAE
from .world import BACKGROUND, SIZE, random_scene, random_starts, render

LATENT_NOISE, POWER_WEIGHT = 0.5, 1e-4   # noise: the largest share of the latents' own rms
DECODER_NOISE = 0.15                     # when the decoder is trained alone, on what a denoiser leaves
COLOUR_WEIGHT = 1.0
LOUDEST = 0.7   # largest standard deviation of the normalised latents in any direction
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


def cell_colours(pixels: Tensor) -> Tensor:
    """Mean colours `(B, 12, F, H/8, W/8)` of the four pixel frames of every latent cell of `(B, 3, 4F - 3, H, W)`."""
    pooled = F.avg_pool3d(pixels, (1, 8, 8))
    first = pooled[:, :, :1].repeat_interleave(4, dim=1)
    rest = pooled[:, :, 1:].unflatten(2, (-1, 4)).transpose(2, 3).flatten(1, 2)
    return torch.cat([first, rest], dim=2)


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
    colours = nn.Conv3d(LATENT_CHANNELS, 12, 1)
    trained = [p for p in (*codec.parameters(), *colours.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)
    begin, step, running = time.monotonic(), 0, None
    while (spent := (time.monotonic() - begin) / 60) < minutes:
        optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50) * max(0.02, 1 - spent / minutes)
        pixels = random_clips(rng, BATCH, CLIP_FRAMES, CROP).to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            mean = codec.moments(pixels)[0].float()
            power = mean.square().mean()
            most = DECODER_NOISE if decoder_only else LATENT_NOISE
            level = most * torch.rand(BATCH, 1, 1, 1, 1, generator=generator) * power.detach().sqrt()
            noisy = mean + level * torch.randn(mean.shape, generator=generator)
            output = codec.reconstruct(noisy).float()
            read = colours(noisy).float()
        loss = reconstruction_loss(output, pixels) + POWER_WEIGHT * power
        loss = loss + COLOUR_WEIGHT * 5 * (read - cell_colours(pixels)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        psnr = -10 * torch.log10((output.detach() - pixels).square().mean() / 4).item()
        running = psnr if running is None else 0.98 * running + 0.02 * psnr
        step += 1
        if step % 50 == 0:
            log({"what": "codec", "step": step, "minutes": round(spent, 2), "loss": round(loss.item(), 4),
                 "latent_power": round(power.item(), 3), "psnr_db": round(running, 2),
                 "colour": round((read - cell_colours(pixels)).square().mean().item(), 4)})
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
    """Centres the normalised latents and damps their loudest directions, exactly undone on the decoder's side.

    A direction of large variance shows through noise long before the rest, so that a denoiser would decide everything
    in its first few steps.
    """
    normalised = torch.cat([codec.encode(clip) for clip in pixels.split(1)]).transpose(0, 1).flatten(1)
    variance, directions = torch.linalg.eigh(torch.cov(normalised).double())
    gain = (LOUDEST / variance.clamp_min(1e-12).sqrt()).clamp_max(1)
    std, mean = torch.tensor(LATENT_STD).double(), torch.tensor(LATENT_MEAN).double()
    centre = mean + std * normalised.mean(1).double()
    damp = std[:, None] * (directions * gain) @ directions.T / std
    undo = std[:, None] * (directions / gain) @ directions.T / std
    head, tail, z = codec.conv1, codec.conv2, LATENT_CHANNELS
    head.bias[:z] = (damp @ (head.bias[:z].double() - centre) + mean).float()
    head.weight[:z] = (damp @ head.weight[:z].flatten(1).double()).float().view_as(head.weight[:z])
    weight = tail.weight.flatten(1).double()
    tail.bias += (weight @ (centre - undo @ mean)).float()
    tail.weight.copy_((weight @ undo).view_as(tail.weight))


@torch.no_grad()
def codec_psnr(codec: WanVAE, pixels: Tensor) -> float:
    """PSNR in dB over all pixels of the clips, through encode and decode."""
    error = torch.stack([(codec.decode(codec.encode(clip)).clamp(-1, 1) - clip).square().mean()
                         for clip in pixels.split(1)])
    return float(-10 * torch.log10(error.mean() / 4))

