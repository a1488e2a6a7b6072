"""The few-step loop and the attention over cached keys, written out."""

import torch

from flowcache_core.backbones.hooks import NoHooks
from flowcache_core.solvers import listed_table
from tests.reference import TOKENS, naive_attention

FEW = listed_table((1000, 500), 5.0)


class Keys(NoHooks):
    """Attends to given keys `(k, v)` of every layer and its own; keeps its own."""

    def __init__(self, before=None):
        self.before, self.own = before, {}

    def attention(self, index, kind, q, k, v, attend):
        if kind == "self":
            self.own[index] = (k, v)
            if self.before is not None:
                k, v = (torch.cat([old, new], dim=2) for old, new in zip(self.before[index], (k, v), strict=True))
        return naive_attention(q, k, v)


def joined(*parts):
    return {layer: tuple(torch.cat([p[layer][n] for p in parts], dim=2) for n in (0, 1)) for layer in range(2)}


def chunk_of(keys, start, stop):
    return {layer: tuple(x[:, :, start * TOKENS:stop * TOKENS] for x in pair) for layer, pair in keys.items()}


def few_steps(model, run, text, chunk, before):
    """The few-step loop of one chunk by hand, with the run's noise."""
    s = run.settings
    x = run.video.chunk(chunk).clone()
    for index, (sigma, t) in enumerate(zip(FEW.sigmas, FEW.timesteps, strict=False)):
        velocity = model(x, torch.full((1, 2), t), text, (2 * chunk, 2 * chunk + 1), Keys(before))
        clean, following = x - sigma * velocity, FEW.sigmas[index + 1]
        noise = s.noise_rule.fresh(s.seed, x.shape, chunk, index)
        x = (1 - following) * clean + following * noise
    return x
