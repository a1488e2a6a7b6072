"""Training sessions of the bundled model: what `train --minutes N` does.

A session resumes from the weights in the project, appends to the log beside them, and writes new weights (the moving
average, fp16). The first session of an empty folder begins from scratch.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..backbones.wan import WanConfig, WanTransformer
from ..backbones.wan_vae import WanVAE
from ..checkpoints import read_header
from .bundle import CODEC, TRANSFORMER, load_codec, load_transformer
from .latent_pool import LatentPool, fill_pool
from .train_codec import train_codec
from .train_model import renew_text, train_model

CONFIG = WanConfig(dim=256, layers=6, ffn=1024, heads=2)
CODEC_WIDTH = 8
LOG = TRANSFORMER.parent / "training_log.jsonl"


def _logger(echo: Callable[[str], None]) -> Callable[[dict], None]:
    def log(entry: dict) -> None:
        with LOG.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        echo(json.dumps(entry))
    return log


def _session(path: Path) -> int:
    """Sessions that the weights at `path` have seen."""
    return int(read_header(path).metadata.get("sessions", 0)) if path.exists() else 0


def _save(path: Path, tensors: dict[str, Tensor], sessions: int, family: str) -> None:
    half = {name: value.detach().half().contiguous() for name, value in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    save_file(half, partial, metadata={"family": family, "sessions": str(sessions), "format": "pt"})
    partial.replace(path)


def _fresh_model(seed: int) -> WanTransformer:
    torch.manual_seed(seed)
    model = WanTransformer(CONFIG)
    nn.init.zeros_(model.head.head.weight)
    nn.init.zeros_(model.head.head.bias)
    return model


def train_codec_session(minutes: float, rate: float, echo: Callable[[str], None], decoder_only: bool = False) -> None:
    """Trains the codec. Changing its encoder makes the transformer's latents stale: train that anew afterwards."""
    sessions = _session(CODEC)
    torch.manual_seed(sessions)
    codec = load_codec().requires_grad_(True) if sessions else WanVAE(CODEC_WIDTH)
    log = _logger(echo)
    log({"what": "decoder" if decoder_only else "codec", "session": sessions + 1, "minutes": minutes, "rate": rate,
         "seed": sessions})
    train_codec(codec, minutes, sessions, log, rate, decoder_only)
    _save(CODEC, codec.state_dict(), sessions + 1, "demo-codec")


def train_model_session(minutes: float, rate: float, pool_folder: Path, shards: int, echo: Callable[[str], None],
                        new_text: bool = False) -> None:
    """Trains the transformer on a pool of encoded clips, which is filled first (32 clips a shard). new_text: the layers
    that read the prompt are drawn anew first."""
    sessions = _session(TRANSFORMER)
    model = load_transformer().train().requires_grad_(True) if sessions else _fresh_model(0)
    if new_text or not sessions:
        renew_text(model, sessions)
    begin = time.monotonic()
    fill_pool(load_codec(), pool_folder, shards, seed=7)
    log = _logger(echo)
    log({"what": "model", "session": sessions + 1, "minutes": minutes, "rate": rate, "seed": sessions,
         "new_text": new_text, "pool_minutes": round((time.monotonic() - begin) / 60, 2)})
    train_model(model, LatentPool(pool_folder), minutes, sessions, log,
                lambda tensors: _save(TRANSFORMER, tensors, sessions + 1, "demo"), rate)
