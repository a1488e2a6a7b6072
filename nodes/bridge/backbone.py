"""A network of the host's that a `Generation` can run: one pass is one call of the guider."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...flowcache_core.backbones.backbone import Sizes
from ...flowcache_core.backbones.wan import shift_keys
from ...flowcache_core.pass_hooks import PassHooks, RowKey
from ...flowcache_core.reuse import Kind
from . import network
from .guidance import Conds, in_order, roles
from .model_hooks import KEY, ModelHooks, OpenPass


class ComfyBackbone:
    """Forwards through `guider`, with `options` that belong to this run alone.

    prompts: the conditionings of every prompt of the run; `text` of a call is the number of its prompt. alone: the
    video is one chunk at the host's levels, which the host forwards in its own way, timestep and rotations included.
    last: the clean estimate of the last denoising pass. Raises ValueError where the model is not of the Wan2.1 layout.
    """

    def __init__(self, guider: Any, options: dict[str, Any], seed: int, prompts: Sequence[Conds], alone: bool) -> None:
        self.guider, self.options, self.seed, self.prompts, self.alone = guider, options, seed, prompts, alone
        self.model = guider.model_patcher.model
        self.network = network.network_of(self.model)
        self.hooks = ModelHooks(self.network)
        self.hooks.install(options)
        add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, self._in_order, options["transformer_options"])
        self.last: Tensor | None = None
        self._ordered = False

    @property
    def sizes(self) -> Sizes:
        return network.sizes_of(self.network)

    @property
    def dtype(self) -> torch.dtype:
        return network.inference_dtype(self.model)

    @property
    def device(self) -> torch.device:
        return self.guider.model_patcher.load_device

    def embed_text(self, text: Tensor) -> Tensor:
        return text

    def time_modulation(self, timestep: Tensor) -> Tensor:
        return network.time_modulation(self.network, timestep, self.dtype)

    def patch_tokens(self, latent: Tensor) -> Tensor:
        return network.patch_tokens(self.network, latent, self.dtype)

    def shift_keys(self, keys: Tensor, frames: int) -> Tensor:
        return shift_keys(keys, frames)

    def close(self) -> None:
        self.hooks.close()
        self.last = None

    def __call__(self, latent: Tensor, timestep: Tensor, text: Tensor, frame_index: Sequence[int],
                 hooks: PassHooks) -> Tensor:
        """Velocities `(rows, C, F, h, w)`. The guider's estimate of a denoising pass is left in `hooks.clean`."""
        streams = list(dict.fromkeys(stream for stream, _ in hooks.rows))
        x, prompt = latent[:len(hooks.rows) // len(streams)], self.prompts[int(text[0, 0, 0])]
        given, self.guider.conds = self.guider.conds, {**self.guider.conds, **prompt}
        place = (None, None) if self.alone else (timestep[0], tuple(frame_index))
        try:
            with self.forwarding(hooks, x.shape[0], *place) as p:
                if not hooks.p.steps:
                    self._keys_only(x, timestep, streams)
                    return torch.zeros_like(latent)   # nothing steps
                clean, whole = self._denoised(x, hooks)
        finally:
            self.guider.conds = given
        self.last = hooks.clean = clean
        # A stream that the guider left out of this call counts as what it made of the others.
        return torch.stack([p.velocities.get(row, whole[row[1]]).to(latent.dtype) for row in hooks.rows])

    @contextmanager
    def forwarding(self, hooks: PassHooks, items: int, timestep: Tensor | None = None,
                   frames: tuple[int, ...] | None = None) -> Iterator[OpenPass]:
        """Calls of the network inside are parts of the pass that `hooks` are for. timestep, frames: see `OpenPass`."""
        parts: list[PassHooks] = []

        def hooks_of(rows: list[RowKey], again: bool) -> PassHooks:
            parts.append(hooks.part(rows, again))
            return parts[-1]

        self._ordered = any(decision.kind is Kind.DERIVE for decision in hooks.decisions.values())
        p = OpenPass(roles(self.guider.conds), items, hooks_of, timestep, frames)
        try:
            with self.hooks.opened(p):
                yield p
        finally:
            for part in parts:
                hooks.add_costs(part)

    def _denoised(self, x: Tensor, hooks: PassHooks) -> tuple[Tensor, Tensor]:
        """Clean estimate and velocity by the guider. Its single noise level is the highest of the pass; where chunks
        have several, each chunk's estimate is taken from the velocity."""
        levels = {chunk: span.sigma for chunk, span in hooks.spans.items()}
        sigma = max(levels.values())
        clean = self.guider(x, x.new_full((x.shape[0],), sigma), model_options=self.options, seed=self.seed)
        velocity = (x - clean) / sigma
        if set(levels.values()) != {sigma}:
            parts = velocity.split([hooks.plan.chunks[c].frames for c in hooks.p.chunks], dim=2)
            share = [levels.get(c, 0.0) * part for c, part in zip(hooks.p.chunks, parts, strict=True)]
            clean = x - torch.cat(share, dim=2)
        return clean, velocity

    def _keys_only(self, x: Tensor, timestep: Tensor, streams: list[str]) -> None:
        """Runs the streams for their keys, past what the user's guidance would do with their result."""
        sigma = float(timestep.max()) / self.model.model_sampling.multiplier
        named = roles(self.guider.conds)
        conds = [[c for c in group if named[c["uuid"]] in streams] for group in in_order(self.guider.conds).values()]
        comfy.samplers.calc_cond_batch(self.model, [c for c in conds if c], x, x.new_full((x.shape[0],), sigma),
                                       self.options)

    def _in_order(self, executor: Callable, model: Any, conds: list, x: Tensor, timestep: Tensor,
                  options: dict[str, Any]) -> list[Tensor]:
        """One conditioning after the other, the first one first, where one is derived from another; the host batches
        them, or runs the last one first."""
        if not self._ordered:
            return executor(model, conds, x, timestep, options)
        return [executor(model, [c if k == n else None for k, c in enumerate(conds)], x, timestep, options)[n]
                for n in range(len(conds))]
