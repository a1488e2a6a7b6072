"""What merging costs: the error of attention when the past of a clip is cut to a share, by each method at equal size.

Queries, keys and values are those of the bundled model on clips of its world: the last chunk attends to all before it.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.common import Bundle, save, scenes  # noqa: E402
from flowcache_core.attention import attend_masked  # noqa: E402
from flowcache_core.backbones.hooks import NoHooks, attend  # noqa: E402
from flowcache_core.backbones.wan_vae import pixel_frames  # noqa: E402
from flowcache_core.demo.text import encode_scene  # noqa: E402
from flowcache_core.demo.train_codec import to_pixels  # noqa: E402
from flowcache_core.demo.train_model import MaskedAttention, window_mask  # noqa: E402
from flowcache_core.demo.world import random_starts, render  # noqa: E402
from flowcache_core.kv import MERGERS, SCORERS, Cached, Compression  # noqa: E402

CHUNKS, CHUNK_FRAMES, CLIPS, SHARES = 16, 3, 8, (0.5, 0.25)
METHODS = {"recency": Compression(SCORERS.make("recency")), "key_norm": Compression(SCORERS.make("key_norm")),
           "attention": Compression(SCORERS.make("attention")), "flowcache": Compression(),
           "packcache": Compression(SCORERS.make("packcache")), "past_use": Compression(SCORERS.make("past_use")),
           **{f"{name}{', not aligned' * (align == 'none')}, then {scorer}": Compression(
               SCORERS.make(scorer), merger=MERGERS.make(name, {"align": align}))
              for name, align in (("tempcache", "time"), ("tempcache", "none"), ("close_links", "none"))
              for scorer in ("recency", "attention")}}


class Recorder(NoHooks):
    """Keeps every layer's q, k, v of a causal forward."""

    def __init__(self, mask: MaskedAttention) -> None:
        self.mask, self.layers = mask, []

    def attention(self, index: int, kind: str, q: Tensor, k: Tensor, v: Tensor, attend: Any) -> Tensor:
        if kind == "self":
            self.layers.append((q, k, v))
        return self.mask.attention(index, kind, q, k, v, attend)


def encoded_clips(bundle: Bundle, count: int, frames: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """`(latent (1, C, frames, h, w), embedded prompt)` of held-out scenes."""
    rng, made = np.random.default_rng(seed), []
    for scene in scenes(count, seed, held_out=True):
        pixels = to_pixels(render(scene, random_starts(scene, rng), pixel_frames(frames)))
        made.append((bundle.codec.encode(pixels.unsqueeze(0)).float(),
                     bundle.backbone.embed_text(encode_scene(scene).unsqueeze(0))))
    return made


def attention_of(bundle: Bundle, latent: Tensor, text: Tensor, tokens_per_chunk: int) -> list[tuple]:
    frames = latent.shape[2]
    recorder = Recorder(MaskedAttention(window_mask(torch.tensor([frames]), frames // CHUNK_FRAMES, tokens_per_chunk)))
    bundle.backbone(latent, torch.zeros(1, frames), text, hooks=recorder)
    return recorder.layers


def error_of(method: Compression, q: Tensor, k: Tensor, v: Tensor, share: float, per_frame: int, layer: int,
             layers: int, theta: float) -> float:
    """Relative error of the output of the last chunk's queries, which are also those that choose."""
    own = CHUNK_FRAMES * per_frame
    queries, past = q[:, :, -own:], k.shape[2] - own
    keep = int(past * share)
    cached = Cached(k[:, :, :past], v[:, :, :past], torch.arange(past).expand(*k.shape[:2], -1), per_frame, own, keep,
                    layer, layers, time_theta=theta)
    kept = method.fold(queries, cached)
    index = kept.index.unsqueeze(-1).expand(-1, -1, -1, k.shape[-1])
    values = v.gather(2, index) if kept.values is None else kept.values
    log_m = kept.marks.get("log_m", torch.zeros(kept.index.shape))
    found = attend_masked(attend, queries, torch.cat([k.gather(2, index), k[:, :, past:]], 2),
                          torch.cat([values, v[:, :, past:]], 2), torch.nn.functional.pad(log_m, (0, own)))
    exact = attend(queries, k, v)
    return ((found - exact).norm() / exact.norm()).item()


def run(clips: int = CLIPS, chunks: int = CHUNKS, keep_result: bool = True) -> dict[str, Any]:
    bundle = Bundle.load()
    sizes, rows = bundle.backbone.sizes, []
    with torch.inference_mode():
        made = encoded_clips(bundle, clips, chunks * CHUNK_FRAMES, seed=51)
        per_frame = sizes.tokens_per_frame(*made[0][0].shape[3:])
        seen = [layer for clip in made for layer in attention_of(bundle, *clip, CHUNK_FRAMES * per_frame)]
        for share in SHARES:
            for name, method in METHODS.items():
                errors = [error_of(method, *qkv, share, per_frame, n % sizes.layers, sizes.layers, sizes.time_theta)
                          for n, qkv in enumerate(seen)]
                rows.append({"method": name, "share": share, "error": round(float(np.mean(errors)), 4),
                             "worst_layer": round(float(np.max(np.mean(np.array(errors).reshape(-1, sizes.layers), 0))),
                                                  4)})
    result = {"clips": clips, "chunks": chunks, "rows": rows}
    return save("merging", result) if keep_result else result


if __name__ == "__main__":
    reduced = "--reduced" in sys.argv[1:]
    for line in run(*((1, 6, False) if reduced else ()))["rows"]:
        print(line)
