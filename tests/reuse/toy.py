"""Networks and policies whose answers can be worked out by hand."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from flowcache_core.backbones.backbone import Sizes
from flowcache_core.backbones.hooks import BlockInput, Call, attend
from flowcache_core.reuse import Decision, Kind, ReusePolicy, StepInfo
from tests.reference import normal


class ConstantFlow:
    """A backbone with hooks whose velocity never changes: a fixed picture per frame, whatever the latent and the time.

    Its signals do change: time modulation with the timestep, patch tokens with the latent.
    """

    sizes = Sizes(channels=1, patch=2, layers=2, heads=1, head_dim=4)
    dtype, device = torch.float32, torch.device("cpu")

    def time_modulation(self, timestep):
        return (1 + timestep / 1000)[..., None, None].expand(*timestep.shape, 6, 4)

    def patch_tokens(self, latent):
        return latent.unfold(3, 2, 2).unfold(4, 2, 2).flatten(2, 4).flatten(3).flatten(1, 2)

    def added(self, frame_index, per_frame, timestep):
        """What each of the two blocks adds."""
        return torch.cat([normal(per_frame, 4, seed=frame) for frame in frame_index]) / 2

    def __call__(self, latent, timestep, text, frame_index, hooks):
        b, _, f, h, w = latent.shape
        per_frame = h * w // 4
        answer = hooks.begin(Call(latent, timestep, tuple(frame_index), per_frame))
        if answer is not None:
            return hooks.output(answer)
        tokens = f * per_frame
        x = BlockInput(torch.zeros(b, tokens, 4), torch.zeros(b, f, 6, 4), torch.zeros(tokens, 2, 2), text, per_frame)
        added = self.added(frame_index, per_frame, timestep)

        def run(part, index):
            q = part.hidden.unsqueeze(1)
            hooks.attention(index, "self", q, q, q, attend)
            return part.hidden + added

        for index in (0, 1):
            x = x.with_hidden(hooks.block(index, x, lambda part, index=index: run(part, index)))
        pixels = x.hidden.unflatten(1, (f, h // 2, w // 2)).unflatten(-1, (2, 2))
        return hooks.output(pixels.permute(0, 1, 2, 4, 3, 5).reshape(b, 1, f, h, w))


class LinearFlow(ConstantFlow):
    """Its velocity is `(1 + sigma)` times that picture."""

    def added(self, frame_index, per_frame, timestep):
        return super().added(frame_index, per_frame, timestep) * (1 + timestep[0, 0] / 1000)

    def picture(self, frame_index):
        """`(1, 1, F, 4, 4)`."""
        tokens = 2 * super().added(frame_index, 4, None)[None]
        return tokens.unflatten(1, (-1, 2, 2)).unflatten(-1, (2, 2)).permute(0, 1, 2, 4, 3, 5).reshape(1, 1, -1, 4, 4)


@dataclass(frozen=True)
class Scripted(ReusePolicy):
    """Wants to reuse wherever it is asked; the state counts what it was told."""

    name: ClassVar[str] = "scripted"
    per_stream: ClassVar[bool] = True

    def new_state(self):
        return ()

    def decide(self, state, info, signal):
        return Decision(Kind.REUSE, "scripted", value=float(len(state)))

    def observe(self, state, info, signal, decision):
        return (*state, decision.kind)


@dataclass(frozen=True)
class ScriptedForChunk(Scripted):
    per_stream: ClassVar[bool] = False


def step_info(step: int, steps: int = 10, chunk: int = 0, chunks: int = 1, stream: str = "cond#0", item: int = 0,
              must_compute: bool = False) -> StepInfo:
    return StepInfo(chunk, chunks, step, steps, stream, item, 1 - step / steps, 1 - (step + 1) / steps, must_compute,
                    tokens=8)


@dataclass(frozen=True)
class Given(ReusePolicy):
    """Does at a (step, stream) what `table` says, and computes elsewhere."""

    name: ClassVar[str] = "given"
    derives: ClassVar[bool] = True
    table: dict = field(default_factory=dict)
    ranges: tuple = ()

    def block_ranges(self, layers):
        return self.ranges

    def decide(self, state, info, signal):
        return self.table.get((info.step, info.stream), Decision(Kind.COMPUTE, "given"))
