"""One chunked run, from what is asked for to a `Generation` on the host's network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...flowcache_core.generation import Generation, Given, RunSettings
from ...flowcache_core.per_chunk import check_starts
from ...flowcache_core.plan import ChunkPlan, dense
from ...flowcache_core.plan.chunk_plan import Chunk, split_frames
from ...flowcache_core.profiles import Profile
from ...flowcache_core.profiles.schedule import first_table, step_table
from ...flowcache_core.sampling import PLANS, SCHEDULES, plan_request, shown_frames
from ...flowcache_core.solvers import NOISE_RULES, SOLVERS, NoiseRule, SigmaTable
from .backbone import ComfyBackbone
from .guidance import HostGuidance, needs_negative, roles
from .template import Template, template_of

KV_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn,
             "int8": torch.int8}
AS_PROFILED, GIVEN = "profile", "given"
ORDERS = (AS_PROFILED, *dict.fromkeys((*SCHEDULES, *PLANS)))


@dataclass(frozen=True)
class ChunkRequest:
    """What a node asks of a chunked run; None, 0 and "profile" are as the model's profile has it.

    steps, shift: of the profile's own levels, or steps None: the levels that the sampler is handed. noise: a rule's
    name, or "given": the noise that the sampler is handed. prompts: conditionings by the chunk at which they begin.
    prefix: latents `(B, C, F, h, w)`, as the host scales them, that the video begins with; start_image, end_image:
    `(1, H, W, 3)`, that it begins with, or ends before, encoded by vae. first_chunk, video_chunks: see `RunSettings`.
    """

    steps: int | None = None
    shift: float | None = None
    solver: str = AS_PROFILED
    chunk_frames: int = 0
    ar_step: int = -1
    plan: str = AS_PROFILED
    noise: str = AS_PROFILED
    prompts: Mapping[int, Any] = field(default_factory=dict)
    prefix: Tensor | None = None
    start_image: Tensor | None = None
    end_image: Tensor | None = None
    vae: Any = None
    first_chunk: int = 0
    video_chunks: int | None = None


@dataclass(frozen=True)
class GivenNoise(NoiseRule):
    """The host's noise at the start, and the rule's own for solvers that add more on the way."""

    noise: Tensor
    rule: NoiseRule

    @property
    def name(self) -> str:
        return f"given, then {self.rule.name}"

    def initial(self, seed: int, shape: Sequence[int], chunks: Sequence[Chunk]) -> Tensor:
        return self.noise

    def fresh(self, seed: int, shape: Sequence[int], chunk: int, step: int) -> Tensor:
        return self.rule.fresh(seed, shape, chunk, step)


def profile_of(template: Template) -> Profile:
    """Raises ValueError where no node has said what the model is."""
    if template.profile is None:
        raise ValueError("this model has no AR profile, so its chunks and steps are not known: load it with Load AR "
                         "Video Model, or put AR Profile Override behind its loader")
    return template.profile


def chunk_frames_of(profile: Profile, asked: int) -> int:
    """Raises ValueError for a chunk that the model was not made for."""
    if asked in (0, profile.chunk_frames):
        return profile.chunk_frames
    raise ValueError(f"chunk_frames {asked}: {profile.title} was made for chunks of {profile.chunk_frames} latent "
                     f"frames; set 0 or {profile.chunk_frames}, or change the profile with AR Profile Override")


def split(profile: Profile, asked: int, frames: int) -> tuple[Chunk, ...]:
    """The chunks of a video of so many latent frames."""
    return split_frames(frames, chunk_frames_of(profile, asked))


def levels(profile: Profile, request: ChunkRequest) -> SigmaTable:
    """The profile's own noise levels."""
    return step_table(profile, request.steps or profile.steps, request.shift or profile.shift)


def handed_levels(sigmas: Tensor, model_sampling: Any) -> SigmaTable:
    """The host's noise levels, with the timesteps that the host would tell of them. Raises ValueError."""
    if len(sigmas) < 2 or float(sigmas[-1]) != 0:
        raise ValueError(f"sigmas {[round(float(s), 4) for s in sigmas]}: a chunk is finished at noise 0, and takes at "
                         "least one step; connect a schedule that ends with 0")
    return SigmaTable(tuple(map(float, sigmas)), tuple(map(float, model_sampling.timestep(sigmas[:-1]).float())))


def check_start(given: int, frames: int, chunk: int) -> None:
    """Raises ValueError for given frames that are no whole chunks, or all that there are to be."""
    if given and (given >= frames or given % chunk):
        raise ValueError(f"a start of {given} latent frames in a video of {frames}: expected whole chunks of {chunk}, "
                         "and fewer than the video has; shorten it, or make the video longer")


def build_plan(profile: Profile, request: ChunkRequest, frames: int, steps: int) -> ChunkPlan:
    """Raises ValueError where the numbers make no plan."""
    chunk, given = chunk_frames_of(profile, request.chunk_frames), given_frames(profile, request)
    check_start(given, frames, chunk)
    if frames <= chunk and request.end_image is None:
        return dense(frames, frames, steps)   # nothing to look back to, so nothing to cache
    if request.plan == AS_PROFILED and profile.base_frames is not None and frames > profile.base_frames:
        raise ValueError(f"a video of {frames} latent frames with {profile.title}, which sees {profile.base_frames} "
                         "at a time: set schedule to rolling, whose window moves along, or use the Chunked "
                         "AR Sampler with schedule profile and its vae connected, which joins windows")
    made = plan_request(profile, frames, **_order(profile, request), chunk_frames=chunk, steps=steps,
                        ar_step=None if request.ar_step < 0 else request.ar_step)
    switches = tuple(sorted(c for c in request.prompts if c)) if profile.recache and made.name == "sequential" else ()
    return replace(made, first_steps=made.first_steps if request.steps else None, switches=switches,
                   prefix_chunks=given // chunk, end=request.end_image is not None).build()


def _order(profile: Profile, request: ChunkRequest) -> dict[str, str]:
    if request.plan == AS_PROFILED:
        return {}
    word = request.plan in SCHEDULES and (profile.plan in ("diffusion_forcing", "dense") or request.plan not in PLANS)
    return {"schedule" if word else "plan": request.plan}


def given_frames(profile: Profile, request: ChunkRequest) -> int:
    """Latent frames that the video begins with and no step touches. Raises ValueError for a model without images."""
    if request.start_image is None or request.prefix is not None:
        if request.start_image is not None:
            raise ValueError("start image together with prefix latents: the video can begin with one of them only")
        return 0 if request.prefix is None else request.prefix.shape[2]
    if profile.image == "none":
        raise ValueError(f"a start image with {profile.title}: it was not trained to take one; leave it open")
    return 0 if profile.image == "per_frame" else chunk_frames_of(profile, request.chunk_frames)


def given_latents(model: Any, profile: Profile, request: ChunkRequest, size: tuple[int, int]) -> Given:
    """What no step touches, in the model's own scale. size: of the pixels."""
    def encoded(image: Tensor, frames: int) -> Tensor:
        pixels = comfy.utils.common_upscale(image[:1, :, :, :3].movedim(-1, 1), size[1], size[0], "bilinear", "center")
        clip = pixels.movedim(1, -1).expand(shown_frames(frames), -1, -1, -1)
        return model.process_latent_in(request.vae.encode(clip))

    if (request.start_image is not None or request.end_image is not None) and request.vae is None:
        raise ValueError("a start or end image without a vae: connect the one that belongs to the model")
    end = None if request.end_image is None else encoded(request.end_image, 1)
    if request.prefix is not None:
        return Given(model.process_latent_in(request.prefix), end)
    if request.start_image is None:
        return Given(end=end)
    frames = given_frames(profile, request)
    return Given(encoded(request.start_image, frames), end) if frames else Given(
        end=end, held={0: encoded(request.start_image, 1)})


def asked(guider: Any, options: dict[str, Any], request: ChunkRequest, handed: Tensor, noise: Tensor,
          seed: int) -> tuple[ChunkPlan, RunSettings]:
    """Plan and settings of a run, given noise left out. Raises ValueError where they do not fit the model."""
    template = template_of(options)
    profile = profile_of(template)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    table = levels(profile, request) if request.steps else handed_levels(handed, sampling)
    plan = build_plan(profile, request, noise.shape[2], table.steps)
    check_starts(request.prompts, len(plan.chunks) - plan.end_chunks)
    names = tuple(name for name in roles(guider.conds).values()
                  if not name.startswith("uncond#") or needs_negative(guider, options))
    rule = profile.noise_rule if request.noise in (AS_PROFILED, GIVEN) else request.noise
    solver = profile.solver if request.solver == AS_PROFILED else request.solver
    return plan, RunSettings(
        table, *noise.shape[-2:], items=noise.shape[0], seed=seed,
        guidance=HostGuidance(names, getattr(guider, "cfg", 1.0)),
        first_table=first_table(profile, plan, request.shift or profile.shift), solver=SOLVERS.make(solver),
        policy=template.policy, predictor=template.predictor, reuse_from=template.reuse_from,
        reuse_until=template.reuse_until, budget=template.budget, compression=template.compression,
        noise_rule=NOISE_RULES.make(rule), context_timestep=profile.context_timestep,
        given_noise=profile.addnoise, sparse=template.sparse, first_chunk=request.first_chunk,
        video_chunks=request.video_chunks,
        kv_dtype=None if template.kv_dtype == "auto" else KV_DTYPES[template.kv_dtype], kv_device=template.kv_device)


class ChunkedRun:
    """guider: what samples; options: model options that belong to this run; handed: the sampler's levels; noise,
    latent: `(B, C, F, h, w)`, in the model's own scale; prompts: conditionings of every prompt."""

    def __init__(self, guider: Any, options: dict[str, Any], request: ChunkRequest, handed: Tensor, noise: Tensor,
                 latent: Tensor | None, seed: int, prompts: Sequence[Mapping[str, Any]]) -> None:
        self.plan, self.settings = asked(guider, options, request, handed, noise, seed)
        if request.noise == GIVEN:
            start = guider.inner_model.model_sampling.noise_scaling(
                handed[0], noise, torch.zeros_like(noise) if latent is None else latent, False)
            self.settings = replace(self.settings, noise_rule=GivenNoise(start, self.settings.noise_rule))
        starts = sorted({0, *request.prompts})
        number = [sum(start <= c for start in starts) - 1 for c in range(len(self.plan.chunks) - self.plan.end_chunks)]
        texts = {stream: [torch.full((1, 1, 1), float(n)) for n in number] for stream in self.settings.streams}
        model, profile = guider.model_patcher.model, profile_of(template_of(options))
        given = given_latents(model, profile, request, (8 * noise.shape[3], 8 * noise.shape[4]))
        alone = len(self.plan.chunks) == 1 and not request.steps
        self.backbone = ComfyBackbone(guider, options, seed, prompts, alone)
        self.generation = Generation(self.backbone, self.plan, self.settings, texts, given)

    def close(self) -> None:
        self.generation.close()
        self.backbone.close()


def checked_device(name: str, device: torch.device) -> str:
    """Raises ValueError for a cache on a GPU that this host does not use."""
    if name == "gpu" and device.type == "cpu":
        raise ValueError("KV device gpu: this ComfyUI runs on the CPU; choose auto or cpu")
    return name
