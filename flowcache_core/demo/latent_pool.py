"""A pool of encoded training clips on disk: shards of latents with the scenes that they show."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..backbones.wan_vae import WanVAE, pixel_frames
from .text import describe, encode_scene, parse
from .train_codec import set_layout, to_pixels
from .world import random_scene, random_starts, render

CLIP_LATENTS, SHARD_CLIPS = 24, 32


@torch.no_grad()
def write_shard(codec: WanVAE, folder: Path, index: int, seed: int) -> Path:
    """Encodes `SHARD_CLIPS` random clips of `CLIP_LATENTS` latent frames into one file."""
    rng = np.random.default_rng([seed, index])
    latents, prompts = [], []
    for _ in range(SHARD_CLIPS):
        scene = random_scene(rng)
        pixels = to_pixels(render(scene, random_starts(scene, rng), pixel_frames(CLIP_LATENTS)))
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(codec.encode(pixels.unsqueeze(0).to(memory_format=torch.channels_last_3d)).half())
        prompts.append(describe(scene))
    path = folder / f"shard-{index:05d}.safetensors"
    partial = path.with_suffix(".partial")
    save_file({"latents": torch.cat(latents).contiguous()}, partial, metadata={"prompts": json.dumps(prompts)})
    partial.rename(path)
    return path


def fill_pool(codec: WanVAE, folder: Path, shards: int, seed: int) -> None:
    """Writes the shards that are missing, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    set_layout(codec, torch.channels_last_3d)
    for index in range(shards):
        if not (folder / f"shard-{index:05d}.safetensors").exists():
            write_shard(codec, folder, index, seed)


class LatentPool:
    """Clips in memory; `refresh` picks up shards written since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latents: list[Tensor] = []
        self.texts: list[Tensor] = []
        self._seen: set[Path] = set()

    def refresh(self) -> int:
        """Loads new shards; returns the number of clips."""
        for path in sorted(set(self.folder.glob("shard-*.safetensors")) - self._seen):
            with safe_open(path, "pt") as file:
                self.latents += list(file.get_tensor("latents"))
                prompts = json.loads(file.metadata()["prompts"])
            self.texts += [encode_scene(parse(prompt)).half() for prompt in prompts]
            self._seen.add(path)
        return len(self.latents)
