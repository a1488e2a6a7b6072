"""A pool of encoded training clips on disk: shards of latents with the scenes that they show.

Even shards hold clips from the first frame of a video on, odd ones clips from anywhere in it. Beside each lies a file
of openings: many first chunks, from which the model learns what words mean (later chunks can be guessed from earlier
ones).
"""

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

CLIP_LATENTS, SHARD_CLIPS, LATEST = 27, 32, 1200   # LATEST: pixel frame at which a clip may begin
OPENING_LATENTS, OPENING_CLIPS = 3, 128


@torch.no_grad()
def write_clips(codec: WanVAE, path: Path, rng: np.random.Generator, clips: int, latents: int, latest: int) -> None:
    """Encodes random clips of `latents` latent frames, which begin at pixel frames up to `latest`, into one file."""
    encoded, prompts = [], []
    for _ in range(clips):
        scene = random_scene(rng)
        first = int(rng.integers(1, latest)) if latest else 0
        pixels = to_pixels(render(scene, random_starts(scene, rng), pixel_frames(latents), first))
        with torch.autocast("cpu", torch.bfloat16):
            encoded.append(codec.encode(pixels.unsqueeze(0).to(memory_format=torch.channels_last_3d)).half())
        prompts.append(describe(scene))
    partial = path.with_suffix(".partial")
    save_file({"latents": torch.cat(encoded).contiguous()}, partial, metadata={"prompts": json.dumps(prompts)})
    partial.rename(path)


def fill_pool(codec: WanVAE, folder: Path, shards: int, seed: int) -> None:
    """Writes the files that are missing, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    set_layout(codec, torch.channels_last_3d)
    for index in range(shards):
        for name, clips, latents, latest in ((f"opening-{index:05d}", OPENING_CLIPS, OPENING_LATENTS, 0),
                                             (f"shard-{index:05d}", SHARD_CLIPS, CLIP_LATENTS, LATEST * (index % 2))):
            if not (folder / f"{name}.safetensors").exists():
                rng = np.random.default_rng([seed, index, clips])
                write_clips(codec, folder / f"{name}.safetensors", rng, clips, latents, latest)


class LatentPool:
    """Clips in memory, latents `(C, F, h, w)` and text of each; `refresh` picks up files written since.

    openings: first chunks; starts: long clips from the start of a video; later: long clips from anywhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.openings: list[tuple[Tensor, Tensor]] = []
        self.starts: list[tuple[Tensor, Tensor]] = []
        self.later: list[tuple[Tensor, Tensor]] = []
        self._seen: set[Path] = set()

    def refresh(self) -> int:
        """Loads new files; returns the number of clips."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._seen):
            with safe_open(path, "pt") as file:
                latents, prompts = list(file.get_tensor("latents")), json.loads(file.metadata()["prompts"])
            kind, _, index = path.stem.rpartition("-")
            clips = self.openings if kind == "opening" else self.later if int(index) % 2 else self.starts
            clips += zip(latents, [encode_scene(parse(prompt)).half() for prompt in prompts], strict=True)
            self._seen.add(path)
        return len(self.openings) + len(self.starts) + len(self.later)
