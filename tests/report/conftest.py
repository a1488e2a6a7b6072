"""A trace of a real run of a tiny network, and traces made by hand."""

from collections.abc import Callable

import pytest
import torch

from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.generation import Generation, RunSettings
from flowcache_core.plan.diffusion_forcing import diffusion_forcing
from flowcache_core.reuse import POLICIES
from flowcache_core.solvers.sigmas import flow_table
from flowcache_core.trace import LaneRecord, PassRecord, Trace

MakeTrace = Callable[..., Trace]


@pytest.fixture(scope="session")
def real_trace() -> Trace:
    torch.manual_seed(0)
    network = WanTransformer(WanConfig(dim=24, layers=2, ffn=32, heads=2, text_dim=8, freq_dim=16)).eval()
    plan = diffusion_forcing(8, 3, 6, 2)
    policy = POLICIES.make("flowcache", {"threshold": 0.5, "warmup_steps": 2})
    settings = RunSettings(table=flow_table(6, 3.0), height=4, width=4, policy=policy)
    with torch.inference_mode():
        text = network.embed_text(torch.randn(1, 3, 8))
    run = Generation(network, plan, settings, {"cond#0": [text] * len(plan.chunks)})
    run.run()
    return run.trace


@pytest.fixture
def make_trace() -> MakeTrace:
    """`make_trace(lanes, chunks, steps)`: a sequential run; one pass of 1 s a lane's chunk and step."""

    def make(lanes: list[LaneRecord], chunks: int, steps: int, kv_tokens: int = 100) -> Trace:
        plan = {"name": "sequential", "num_steps": steps, "chunks": [[c, c + 1] for c in range(chunks)], "rows": 1}
        trace = Trace({"policy": "by_hand", "policy_settings": {"knob": 0.5}}, plan)
        for place in sorted({(lane.chunk, lane.step) for lane in lanes}):
            its = tuple(lane for lane in lanes if (lane.chunk, lane.step) == place)
            trace.passes.append(PassRecord(0, "denoise", place[:1], place[1:], 1.0, 0.1, len(its), kv_tokens, 800, its))
        return trace

    return make
