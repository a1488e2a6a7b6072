"""One run as somebody asks for it: the one place where profile, schedule, preset and prompts meet."""

from dataclasses import dataclass, replace

import torch

from ..backbones.backbone import Backbone
from ..generation import COND, UNCOND, Generation, RunSettings
from ..kv import Compression, KVBudget
from ..plan import ChunkPlan
from ..profiles import Profile
from ..profiles.schedule import first_table, run_guidance, step_table
from ..protocols import TextEncoder
from ..reuse import Predictor, ReusePolicy
from ..solvers import NOISE_RULES, SOLVERS


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
