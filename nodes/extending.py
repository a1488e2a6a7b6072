"""From a video that is there to the beginning of a longer one."""

from typing import Any

import torch
from torch import Tensor

from ..flowcache_core.run_folder import MANIFEST, RunFolder, read_manifest
from .bridge.keeping import inside
from .bridge.outer import attach
from .bridge.run import profile_of
from .bridge.template import template_of


def beginning(model: Any, root: str, folder: str, latents: dict[str, Any] | None, added: int) -> tuple[Tensor, int]:
    """Latents of whole chunks, as the host scales them, and the pixel frames of the video with `added` chunks more.

    Raises ValueError where not exactly one video is given, or it has no whole chunk.
    """
    if bool(folder.strip()) == (latents is not None):
        raise ValueError("Extend AR Video takes either a folder or latents: " +
                         ("empty the folder or disconnect latents" if latents is not None else "give one of them"))
    chunk = profile_of(template_of(attach(model).model_options)).chunk_frames
    samples = _of_run(model, root, folder.strip()) if latents is None else latents["samples"]
    if samples.ndim != 5:
        raise ValueError(f"latents {tuple(samples.shape)}: expected a video, (batch, channels, frames, height / 8, "
                         "width / 8)")
    whole = samples.shape[2] // chunk * chunk
    if not whole:
        raise ValueError(f"{samples.shape[2]} latent frames: a video to go on with has at least one whole chunk, "
                         f"{chunk} for this model")
    return samples[:, :, :whole], 4 * (whole + added * chunk - 1) + 1


def _of_run(model: Any, root: str, folder: str) -> Tensor:
    """The finished chunks of a run, up to the first one that is missing."""
    path = inside(root, folder)
    finished, _ = RunFolder(path, {}, (), read_manifest(path)["of"]).load_finished()
    if not finished:
        raise ValueError(f"folder {folder!r} holds no finished chunk: let its run finish one, or give another folder")
    samples = torch.cat([finished[chunk] for chunk in sorted(finished)], dim=2)
    return model.model.process_latent_out(samples)


def changed_run(root: str, folder: str) -> str:
    """What the host compares to know whether a run has gone on."""
    path = inside(root, folder.strip()) / MANIFEST if folder.strip() else None
    if path is None or not path.exists():
        return ""
    info = path.stat()
    return f"{info.st_mtime_ns} {info.st_size}"
