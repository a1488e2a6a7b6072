"""From command-line words to a run: the one place where profile, preset and options meet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..backbones.backbone import Backbone
from ..generation import COND, UNCOND, Generation, RunSettings
from ..kv import Compression, KVBudget
from ..plan import ChunkPlan, History, dense, diffusion_forcing, pipelined, rolling, sequential
from ..profiles import Preset, Profile, load_preset
from ..profiles.schedule import first_table, run_guidance, step_table
from ..protocols import TextEncoder
from ..registry import Registry
from ..reuse import POLICIES, PREDICTORS, Predictor, ReusePolicy
from ..solvers import NOISE_RULES, SOLVERS

PLANS = ("diffusion_forcing", "sequential", "pipelined", "dense", "rolling")


@dataclass(frozen=True)
class PlanRequest:
    """A schedule in words. frames: latent frames of the video; history: chunks a chunk may see (None: all);
    near_clean_from: share of the steps after which the oldest chunk also runs alone (pipelined)."""

    name: str
    frames: int
    chunk_frames: int
    steps: int
    ar_step: int
    commit: bool
    window: int = 5
    history: int | None = None
    sink: int = 0
    first_steps: int | None = None
    near_clean_from: float | None = None

    def build(self) -> ChunkPlan:
        """Raises ValueError where the numbers make no plan."""
        if self.name not in PLANS:
            raise ValueError(f"unknown plan {self.name!r}: choose one of {', '.join(PLANS)}")
        history = History(self.history, self.sink)
        args = (self.frames, self.chunk_frames, self.steps)
        if self.name == "diffusion_forcing":
            return diffusion_forcing(*args, self.ar_step, history=history, commit=self.commit)
        if self.name == "sequential":
            return sequential(*args, self.first_steps, history=history, commit=self.commit)
        if self.name == "pipelined":
            late = None if self.near_clean_from is None else round(self.near_clean_from * self.steps)
            return pipelined(*args, self.window, history=history, commit=self.commit, near_clean_from=late)
        return dense(*args) if self.name == "dense" else rolling(*args, history=history)


@dataclass(frozen=True)
class RunRequest:
    """Everything a run needs but the model. prompts: one a chunk; negative: the unconditional prompt; note: what the
    preset has to say."""

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
    negative: str = ""
    note: str = ""

    def accelerated(self, policy: ReusePolicy, predictor: Predictor) -> "RunRequest":
        return replace(self, policy=policy, predictor=predictor)

    def settings(self) -> RunSettings:
        p = self.profile
        return RunSettings(
            step_table(p, self.plan.num_steps, self.shift), *p.latent, seed=self.seed,
            first_table=first_table(p, self.plan, self.shift), guidance=run_guidance(p, self.guidance),
            solver=SOLVERS.make(p.solver), policy=self.policy, predictor=self.predictor,
            budget=self.budget, compression=self.compression, noise_rule=NOISE_RULES.make(p.noise_rule),
            context_timestep=p.context_timestep)

    def generation(self, backbone: Backbone, encoder: TextEncoder) -> Generation:
        """A run, checked but not started."""
        with torch.inference_mode():
            embed = {prompt: backbone.embed_text(encoder.encode(prompt)) for prompt in {*self.prompts, self.negative}}
        texts = {COND: [embed[prompt] for prompt in self.prompts], UNCOND: [embed[self.negative]] * len(self.prompts)}
        return Generation(backbone, self.plan, self.settings(), texts)


def parse_settings(pairs: Sequence[str], registry: Registry, name: str) -> dict[str, object]:
    """`key=value` words as settings of the registered class `name`, converted to the type of its default."""
    known = {f.name: f.default for f in registry[name].__dataclass_fields__.values()}
    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"setting {pair!r}: expected NAME=VALUE")
        kind = type(known.get(key))
        try:
            settings[key] = kind(text) if kind in (int, float) and key != "threshold" else text
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"setting {key} {text!r}: expected {wanted}") from None
    return settings


def choose_reuse(profile: Profile, preset: str | None, policy: str | None, threshold: str | None,
                 pairs: Sequence[str], predictor: str | None) -> Preset:
    """A preset, or a policy with its settings; `threshold` and `pairs` need a policy that has them."""
    if policy is None and (threshold is not None or pairs):
        policy = "flowcache"
    if policy is None:
        chosen = load_preset(profile, preset or "off")
        return replace(chosen, predictor=PREDICTORS.make(predictor)) if predictor else chosen
    if preset is not None:
        raise ValueError(f"preset {preset!r} together with policy {policy!r}: give one of the two")
    settings = parse_settings(pairs, POLICIES, policy)
    if threshold is not None:
        settings["threshold"] = threshold
    return Preset("", POLICIES.make(policy, settings), PREDICTORS.make(predictor or "velocity"), {})
