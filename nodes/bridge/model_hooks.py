"""The hook contract of the core on the host's network, through what the host offers for it.

A `DIFFUSION_MODEL` wrapper is `begin` and `output`, a block patch is `block`, an attention override is `attention`.
Each is put around whatever is installed already, on the run's own copy of the model options, and each does nothing
while no pass is open.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...flowcache_core.backbones.hooks import BlockInput, Call, Hooks
from ...flowcache_core.pass_hooks import RowKey, Stopwatch
from .network import WanModel, rope

KEY = "flowcache"


@dataclass
class OpenPass:
    """What one call of the guider computes.

    roles: stream of every conditioning, by the host's id. hooks_of(rows, again): the hooks of one call of the network;
    again: of a stream that this pass has forwarded before. timestep: `(F,)` of every frame, None leaves the host's.
    frames: places in the video, None leaves the host's rotations. velocities: `(C, F, h, w)` of every row forwarded.
    """

    roles: dict[Any, str]
    items: int
    hooks_of: Callable[[list[RowKey], bool], Hooks]
    timestep: Tensor | None = None
    frames: tuple[int, ...] | None = None
    velocities: dict[RowKey, Tensor] = field(default_factory=dict)

    def rows(self, ids: list[Any], batch: int) -> list[RowKey]:
        unknown = [i for i in ids if i not in self.roles]
        if unknown or batch != len(ids) * self.items:
            raise ValueError(f"a call with {batch} rows for {len(ids)} conditionings, {len(unknown)} of them unknown: "
                             "a node on this model changes batch or conditioning while it is sampled; remove it")
        return [(self.roles[i], item) for i in ids for item in range(self.items)]


class ModelHooks:
    """Hooks of one run. watch: seconds in this class and below, the network's own work not counted."""

    def __init__(self, network: WanModel) -> None:
        self.network, self.watch = network, Stopwatch()
        self.calls = 0
        self._open: OpenPass | None = None
        self._active: Hooks | None = None
        self._layer, self._attentions, self._tokens_per_frame = 0, 0, 0
        self._rope: dict[tuple, Tensor] = {}

    def install(self, options: dict[str, Any]) -> None:
        """Puts the hooks into model options that belong to this run alone."""
        to = options.setdefault("transformer_options", {})
        add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, torch.compiler.disable(self._diffusion_model), to)
        blocks = to.setdefault("patches_replace", {}).setdefault("dit", {})
        for index in range(self.network.num_layers):
            blocks["double_block", index] = self._block_patch(index, blocks.get(("double_block", index)))
        to["optimized_attention_override"] = self._override(to.get("optimized_attention_override"))

    def close(self) -> None:
        self._open = self._active = None
        self._rope.clear()

    @contextmanager
    def opened(self, p: OpenPass) -> Iterator[None]:
        """Makes the hooks work on `p`."""
        self._open = p
        try:
            yield
        finally:
            self._open = self._active = None

    def _diffusion_model(self, executor: Callable, x: Tensor, timestep: Tensor, context: Tensor, *args: Any,
                         **kwargs: Any) -> Tensor:
        p = self._open
        if p is None:
            return executor(x, timestep, context, *args, **kwargs)
        throw_exception_if_processing_interrupted()
        with self.watch:
            self.calls += 1
            options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[2]
            rows = p.rows(options["uuids"], x.shape[0])
            again = any(row in p.velocities for row in rows)
            hooks = p.hooks_of(rows, again)
            _, _, frames, h, w = x.shape
            self._tokens_per_frame = -(-h // self.network.patch_size[1]) * -(-w // self.network.patch_size[2])
            if p.timestep is not None:
                timestep = p.timestep.to(timestep.dtype).expand(x.shape[0], -1)
            places = p.frames if p.frames is not None else tuple(range(frames))
            velocity = hooks.begin(Call(x, timestep, places, self._tokens_per_frame))
            if velocity is None:
                self._active = hooks
                self._pe = None if p.frames is None else self._rotations(p.frames, h, w, x.device, options)
                try:
                    velocity = self.watch.inner(executor)(x, timestep, context, *args, **kwargs)
                finally:
                    self._active = self._pe = None
            velocity = hooks.output(velocity)
            if not again:
                p.velocities.update(zip(rows, velocity, strict=True))
            return velocity

    def _rotations(self, frames: tuple[int, ...], h: int, w: int, device: torch.device, options: dict) -> Tensor:
        place = (frames, h, w, device, repr(options.get("rope_options")))
        if place not in self._rope:
            if len(self._rope) >= 16:   # a table for each chunk in flight
                self._rope.pop(next(iter(self._rope)))
            self._rope[place] = rope(self.network, frames, h, w, device, options)
        return self._rope[place]

    def _block_patch(self, index: int, previous: Callable | None) -> Callable:
        def compute(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            return extra["original_block"](args) if previous is None else previous(args, extra)

        def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            if self._active is None:
                return compute(args, extra)

            def run(x: BlockInput) -> Tensor:
                self._layer, self._attentions = index, 0
                return compute({**args, "img": x.hidden, "txt": x.text, "vec": _modulation(x),
                                "pe": x.rope.unsqueeze(0)}, extra)["img"]

            with self.watch:
                pe = args["pe"] if self._pe is None else self._pe
                x = BlockInput(args["img"], args["vec"], pe[0], args["txt"], self._tokens_per_frame)
                return {"img": self._active.block(index, x, self.watch.inner(run))}

        return torch.compiler.disable(patch)

    def _override(self, previous: Callable | None) -> Callable:
        def override(func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
            def compute(*a: Any, **kw: Any) -> Tensor:
                return func(*a, **kw) if previous is None else previous(func, *a, **kw)

            if self._active is None:
                return compute(q, k, v, heads, *args, **kwargs)
            with self.watch:
                kind = "cross" if self._attentions else "self"
                self._attentions += 1
                given = tuple(y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))

                def attend(*qkv: Tensor, bias: Tensor | None = None) -> Tensor:
                    if len(qkv) == 4:
                        *qkv, bias = qkv
                    if bias is None and all(a is b for a, b in zip(qkv, given, strict=True)):
                        out = compute(q, k, v, heads, *args, **kwargs)   # untouched: the same bits as without hooks
                        return out.unflatten(-1, (heads, -1)).transpose(1, 2)
                    more = {"skip_reshape": True, "skip_output_reshape": True}
                    if bias is not None:
                        more["mask"] = bias
                    return compute(*qkv, qkv[0].shape[1], *args, **{**kwargs, **more})

                out = self._active.attention(self._layer, kind, *given, self.watch.inner(attend))
                return out.transpose(1, 2).flatten(2)

        return torch.compiler.disable(override)


def _modulation(x: BlockInput) -> Tensor:
    """Of every frame, or of every chosen token, which the network takes as well."""
    if x.token_index is None or x.modulation.shape[1] == 1:
        return x.modulation
    return x.modulation[:, x.token_index // x.tokens_per_frame]
