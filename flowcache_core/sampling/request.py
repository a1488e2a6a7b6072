"""One run as somebody asks for it: the one place where profile, schedule, preset and prompts meet."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..attention import SparseAttention
from ..backbones.backbone import Backbone
from ..generation import COND, UNCOND, Generation, Given, RunSettings
from ..guidance import ALONE
from ..kv import Compression, KVBudget
from ..plan import ChunkPlan
from ..profiles import Profile
from ..profiles.schedule import first_table, run_guidance, step_table
from ..protocols import TextEncoder
from ..reuse import Predictor, ReusePolicy
from ..run_texts import CONTEXT
from ..solvers import NOISE_RULES, SOLVERS
from .advice import left_out


@dataclass(frozen=True)
class RunRequest:
    """Everything a run needs but the model. prompts: one a chunk; negative: the unconditional prompt; note: what the
    preset has to say; latent: height and width (None: the profile's); fps: told to networks that know rates (None:
    the profile's); released: with the solver of FlowCache's release; given, given_noise, first_chunk, video_chunks,
    sparse, reuse_from, reuse_until: see `Given` and `RunSettings`."""

    profile: Profile
    plan: ChunkPlan
    prompts: tuple[str, ...]
    seed: int
    shift: float
    guidance: float
    policy: ReusePolicy
    predictor: Predictor
    budget: KVBudget = KVBudget()
    compression: Compression | None = None
    kv_dtype: torch.dtype | None = None
    kv_device: str = "auto"
    negative: str = ""
    note: str = ""
    latent: tuple[int, int] | None = None
    fps: float | None = None
    given: Given = field(default_factory=Given, compare=False)
    given_noise: float | None = None
    first_chunk: int = 0
    video_chunks: int | None = None
    sparse: SparseAttention | None = None
    reuse_from: float = 0.0
    reuse_until: float = 1.0
    released: bool = False

    @property
    def solver(self) -> str:
        """Its name; released: the one of the release where it differs."""
        released = f"{self.profile.solver}_released"
        return released if self.released and released in SOLVERS.names() else self.profile.solver

    @property
    def rate(self) -> float:
        """Frames a second of the pixels."""
        return self.profile.fps if self.fps is None else self.fps

    def accelerated(self, policy: ReusePolicy, predictor: Predictor) -> "RunRequest":
        return replace(self, policy=policy, predictor=predictor)

    def settings(self) -> RunSettings:
        p = self.profile
        return RunSettings(
            step_table(p, self.plan.num_steps, self.shift), *(self.latent or p.latent), seed=self.seed,
            first_table=first_table(p, self.plan, self.shift), guidance=run_guidance(p, self.guidance),
            solver=SOLVERS.make(self.solver), policy=self.policy, predictor=self.predictor,
            budget=self.budget, compression=self.compression, kv_dtype=self.kv_dtype, kv_device=self.kv_device,
            noise_rule=NOISE_RULES.make(p.noise_rule),
            context_timestep=p.context_timestep, given_noise=self.given_noise, first_chunk=self.first_chunk,
            video_chunks=self.video_chunks, sparse=self.sparse, reuse_from=self.reuse_from,
            reuse_until=self.reuse_until, batch_streams=p.family != "magi-1")

    def generation(self, backbone: Backbone, encoder: TextEncoder) -> Generation:
        """A run, checked but not started."""
        backbone = at_rate(backbone, self.rate)
        return self.embedded(backbone, embed_prompts(backbone, encoder, self.spoken(backbone)))

    def spoken(self, backbone: Backbone) -> tuple[str, ...]:
        """The prompts that an encoder is asked for: the negative one only where guidance looks at it."""
        scaled = UNCOND in self.settings().streams and not hasattr(backbone, "null_text")
        return (*self.prompts, self.negative) if scaled else self.prompts

    def embedded(self, backbone: Backbone, embed: Mapping[str, Tensor]) -> Generation:
        """The same with embedded prompts and a network that has been told the rate."""
        texts = run_texts(backbone, self.prompts, self.negative, embed)
        run = Generation(backbone, self.plan, self.settings(), texts, self.given)
        run.trace.notes += left_out(self.profile, self.plan)
        return run


def run_texts(backbone: Backbone, prompts: Sequence[str], negative: str,
              embed: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """What every stream is told in every chunk. MAGI-1 brings its own words for no prompt, and tells those to commit
    passes too: with the condition of a dropped caption where the stream that keeps the keys has that."""
    texts = {COND: [embed[prompt] for prompt in prompts]}
    if hasattr(backbone, "null_text"):
        none = backbone.null_text(dropped=True)
        clean = none if backbone.distill is None else backbone.null_text(dropped=False)
        return {name: [text] * len(prompts) for name, text in ((UNCOND, none), (ALONE, none), (CONTEXT, clean))} | texts
    return texts | ({UNCOND: [embed[negative]] * len(prompts)} if negative in embed else {})


def at_rate(backbone: Backbone, fps: float) -> Backbone:
    """The network told a frame rate, where it knows rates."""
    return backbone.at_fps(fps) if hasattr(backbone, "at_fps") else backbone


def embed_prompts(backbone: Backbone, encoder: TextEncoder, prompts: Iterable[str]) -> dict[str, Tensor]:
    """Every prompt once, as the network takes it."""
    with torch.inference_mode():
        return {prompt: backbone.embed_text(encoder.encode(prompt).to(backbone.device))
                for prompt in dict.fromkeys(prompts)}
