"""What the Chunked AR Sampler node does with its inputs."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import latent_preview
import torch
from torch import Tensor

from ..flowcache_core.per_chunk import check_starts, prompt_starts
from ..flowcache_core.plan import Window
from ..flowcache_core.profiles import Profile
from ..flowcache_core.trace import Trace
from .bridge.chunked import ChunkedSampler
from .bridge.keeping import collector, place_of
from .bridge.listening import Frames
from .bridge.outer import attach
from .bridge.run import AS_PROFILED, GIVEN, ChunkRequest, levels, profile_of
from .bridge.template import template_of
from .bridge.window_frames import WindowFrames
from .bridge.windowed import WindowedRun, kept_video
from .bridge.windows import first_chunks, windows_of, with_overlap

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """The widgets and sockets of the node, by the ids of its inputs. 0 and "profile" are as the profile has it."""

    seed: int
    steps: int
    cfg: float
    shift: float
    width: int
    height: int
    length: int
    batch_size: int
    chunk_frames: int
    schedule: str
    ar_step: int
    noise_rule: str
    prompts: str
    out_folder: str = ""
    resume_from: str = ""
    overlap: int = 0
    latent: dict[str, Any] | None = None
    vae: Any = None
    clip: Any = None
    start_image: Tensor | None = None
    end_image: Tensor | None = None
    prefix_latents: dict[str, Any] | None = None
    noise: Any = None
    sigmas: Tensor | None = None


@dataclass(frozen=True)
class Sampled:
    """latent: as the host hands it on; frames: `(B * T, H, W, 3)`, where a vae was given."""

    latent: dict[str, Any]
    trace: Trace
    frames: Tensor | None


def sample(model: Any, positive: list, negative: list, asked: Asked, words: Callable[[str], None] | None) -> Sampled:
    """Raises ValueError where the inputs do not fit one another or the model."""
    model = attach(model)
    profile = profile_asked(model, asked)
    latent = asked.latent or {"samples": empty_latent(profile, asked)}
    start = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    request = request_of(profile, asked, start.shape[2])
    if asked.sigmas is None and "model_sampling" in model.object_patches:
        logger.warning("FlowCache: a ModelSampling node on this model does nothing here, where noise levels are "
                       "those of the profile: set shift on the Chunked AR Sampler, or connect sigmas")
    sigmas = asked.sigmas if asked.sigmas is not None else torch.tensor(levels(profile, request).sigmas)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(asked.cfg or profile.guidance)
    noise, seed = start_noise(asked, {**latent, "samples": start})

    def part(request: ChunkRequest, listener: Any, frames: slice = slice(None)) -> Tensor:
        made = guider.sample(noise[:, :, frames], start[:, :, frames], ChunkedSampler(request, lambda: listener),
                             sigmas, denoise_mask=latent.get("noise_mask"),
                             callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
                             disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed)
        return made.to(comfy.model_management.intermediate_device())

    windows = windows_of(profile, asked.schedule, asked.chunk_frames, start.shape[2])
    place = place_of(folder_paths.get_output_directory(), asked.out_folder, asked.resume_from)
    frames = frames_of(profile, asked, windows, model)
    try:
        if len(windows) > 1:
            kept = kept_video(place, profile, request, windows, seed, noise=noise, latent=start)
            run = WindowedRun(windows, profile, request, frames, model, len(sigmas) - 1, kept, words)
            samples, trace = run.run(lambda p: part(p.request, p.listener, p.frames))
        else:
            listener = collector(place, frames, words)
            samples = part(request, listener)
            trace = listener.trace
        images = None if frames is None else frames.images()
    finally:
        if frames is not None:
            frames.close()
    kept = {key: value for key, value in latent.items() if key != "noise_mask"}
    return Sampled({**kept, "samples": samples}, trace, images)


def profile_asked(model: Any, asked: Asked) -> Profile:
    """The model's, with the overlap of the widget."""
    return with_overlap(profile_of(template_of(model.model_options)), asked.schedule, asked.overlap)


def frames_of(profile: Profile, asked: Asked, windows: Sequence[Window], model: Any) -> Frames | None:
    """What decodes chunks. Raises ValueError for windows without a VAE."""
    if len(windows) == 1:
        return None if asked.vae is None else Frames(asked.vae, model)
    if asked.vae is None:
        raise ValueError(f"a video of {windows[-1].stop} latent frames with {profile.title}, which sees "
                         f"{profile.base_frames} at a time: connect vae, through which each window begins with the end "
                         "of the one before, or set schedule to rolling, whose window moves along")
    return WindowFrames(asked.vae, model, profile, windows)


def empty_latent(profile: Profile, asked: Asked) -> Tensor:
    """Zeros of the size in the widgets; a side of 0 is the profile's. Raises ValueError for a size that is none."""
    if (asked.length - 1) % 4:
        near = asked.length - (asked.length - 1) % 4
        raise ValueError(f"length {asked.length}: expected 4n + 1 pixel frames; set {near} or {near + 4}")
    for name, side in (("width", asked.width), ("height", asked.height)):
        if side % 16:
            raise ValueError(f"{name} {side}: expected a multiple of 16 pixels; set {side // 16 * 16} or "
                             f"{side // 16 * 16 + 16}")
    height, width = asked.height // 8 or profile.latent[0], asked.width // 8 or profile.latent[1]
    return torch.zeros(asked.batch_size, 16, (asked.length - 1) // 4 + 1, height, width)


def start_noise(asked: Asked, latent: dict[str, Any]) -> tuple[Tensor, int]:
    """Noise and seed: of the noise node where one is connected, else the host's noise of the seed."""
    if asked.noise is not None:
        return asked.noise.generate_noise(latent), asked.noise.seed
    if asked.noise_rule == GIVEN:
        return comfy.sample.prepare_noise(latent["samples"], asked.seed), asked.seed
    return torch.zeros_like(latent["samples"]), asked.seed   # the rule makes its own


def request_of(profile: Profile, asked: Asked, frames: int) -> ChunkRequest:
    own_levels = asked.sigmas is None
    if not own_levels and (asked.steps or asked.shift):
        raise ValueError("sigmas together with steps or shift: the sigmas say both; set steps and shift to 0, or leave "
                         "sigmas open")
    windows = windows_of(profile, asked.schedule, asked.chunk_frames, frames)
    prompts = encoded_prompts(asked.prompts, asked.clip)
    check_starts(prompts, first_chunks(profile, asked.chunk_frames, windows)[-1])
    return ChunkRequest(
        steps=(asked.steps or profile.steps) if own_levels else None, shift=asked.shift or None,
        chunk_frames=asked.chunk_frames, ar_step=asked.ar_step, plan=asked.schedule,
        noise=GIVEN if asked.noise is not None else asked.noise_rule, prompts=prompts,
        prefix=None if asked.prefix_latents is None else asked.prefix_latents["samples"],
        start_image=asked.start_image, end_image=asked.end_image, vae=asked.vae)


def encoded_prompts(text: str, clip: Any) -> dict[int, list]:
    """Conditionings by the chunk at which they begin. Raises ValueError without a text encoder."""
    if not text.strip():
        return {}
    if clip is None:
        raise ValueError("prompts per chunk without a text encoder: connect clip, or empty the prompts")
    starts = prompt_starts(text)
    before = dict(zip(list(starts)[1:], starts.values(), strict=False))   # the prompt that each one ends
    return {chunk: clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for chunk, prompt in starts.items()
            if before.get(chunk) != prompt}


__all__ = ["AS_PROFILED", "GIVEN", "Asked", "Sampled", "sample"]
