"""One chunked run, from what is asked for to a `Generation` on the host's network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...flowcache_core.cli.request import PlanRequest
from ...flowcache_core.generation import Generation, Given, RunSettings
from ...flowcache_core.plan import ChunkPlan, dense
from ...flowcache_core.plan.chunk_plan import Chunk, split_frames
from ...flowcache_core.profiles import Profile
from ...flowcache_core.profiles.schedule import first_table, profile_history, step_table
from ...flowcache_core.solvers import NOISE_RULES, SOLVERS, NoiseRule, SigmaTable
from .backbone import ComfyBackbone
from .guidance import HostGuidance, needs_negative, roles
from .template import Template, template_of

KV_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn,
             "int8": torch.int8}
AS_PROFILED, GIVEN = "profile", "given"


@dataclass(frozen=True)
class ChunkRequest:
    """What a node asks of a chunked run; None, 0 and "profile" are as the model's profile has it.

    steps, shift: of the profile's own levels, or steps None: the levels that the sampler is handed. noise: a rule's
    name, or "given": the noise that the sampler is handed. prompts: conditionings by the chunk at which they begin.
    prefix: latents `(B, C, F, h, w)`, as the host scales them, that the video begins with.
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


def build_plan(profile: Profile, request: ChunkRequest, frames: int, steps: int) -> ChunkPlan:
    """Raises ValueError where the numbers make no plan."""
    chunk, given = chunk_frames_of(profile, request.chunk_frames), 0
    if request.prefix is not None:
        given = request.prefix.shape[2]
        if given >= frames or given % chunk:
            raise ValueError(f"prefix of {given} latent frames in a video of {frames}: expected whole chunks of "
                             f"{chunk}, and fewer than the video has; shorten the prefix, or make the video longer")
    if frames <= chunk:
        return dense(frames, frames, steps)   # nothing to look back to, so nothing to cache
    history, sink = profile_history(profile)
    ar_step = request.ar_step if request.ar_step >= 0 else -(-profile.ar_step * steps // profile.steps)
    name = profile.plan if request.plan == AS_PROFILED else request.plan
    first = len(profile.first_step_list) or None if request.steps is not None else None
    return PlanRequest(name, frames, chunk, steps, ar_step, profile.commit, profile.in_flight, history, sink, first,
                       profile.near_clean_from).build()


def asked(guider: Any, options: dict[str, Any], request: ChunkRequest, handed: Tensor, noise: Tensor,
          seed: int) -> tuple[ChunkPlan, RunSettings]:
    """Plan and settings of a run, given noise left out. Raises ValueError where they do not fit the model."""
    template = template_of(options)
    profile = profile_of(template)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    table = levels(profile, request) if request.steps else handed_levels(handed, sampling)
    plan = build_plan(profile, request, noise.shape[2], table.steps)
    names = tuple(name for name in roles(guider.conds).values()
                  if not name.startswith("uncond#") or needs_negative(guider, options))
    rule = profile.noise_rule if request.noise in (AS_PROFILED, GIVEN) else request.noise
    solver = profile.solver if request.solver == AS_PROFILED else request.solver
    return plan, RunSettings(
        table, *noise.shape[-2:], items=noise.shape[0], seed=seed,
        guidance=HostGuidance(names, getattr(guider, "cfg", 1.0)),
        first_table=first_table(profile, plan, request.shift or profile.shift), solver=SOLVERS.make(solver),
        policy=template.policy, predictor=template.predictor, budget=template.budget, compression=template.compression,
        noise_rule=NOISE_RULES.make(rule), context_timestep=profile.context_timestep,
        kv_dtype=None if template.kv_dtype == "auto" else KV_DTYPES[template.kv_dtype])


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
        number = [sum(start <= c for start in starts) - 1 for c in range(len(self.plan.chunks))]
        texts = {stream: [torch.full((1, 1, 1), float(n)) for n in number] for stream in self.settings.streams}
        alone = len(self.plan.chunks) == 1 and not request.steps
        self.backbone = ComfyBackbone(guider, options, seed, prompts, alone)
        self.generation = Generation(self.backbone, self.plan, self.settings, texts, Given(request.prefix))

    def close(self) -> None:
        self.generation.close()
        self.backbone.close()


def checked_device(name: str, device: torch.device) -> str:
    """Raises ValueError for a cache on a GPU that this host does not use."""
    if name == "gpu" and device.type == "cpu":
        raise ValueError("KV device gpu: this ComfyUI runs on the CPU; choose auto or cpu")
    return name
