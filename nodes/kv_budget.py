"""FlowCache KV Budget."""

from typing import Any

from comfy_api.latest import io

from ..flowcache_core.kv import MERGERS, SCORERS
from ..flowcache_core.kv.compression import GRANULARITIES
from .bridge.outer import attach
from .bridge.run import KV_DTYPES, checked_device
from .choices import NO_MERGER, OLDEST_LEAVE, memory
from .declare import given, schema


class FlowCacheKVBudget(io.ComfyNode):
    """What the KV cache may hold."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_KVBudget", "FlowCache KV Budget",
            description="Keeps the KV cache of past chunks inside a budget, however long the video gets. Counts every "
                        "token that is resident, the chunk at work included. For the Chunked AR Sampler.",
            search_aliases=["kv cache", "memory", "long video", "window", "vram", "flowcache"],
            inputs=[
                given(io.Model.Input, "model", tooltip="A model with an AR profile."),
                given(io.Float.Input, "amount", default=4.0, min=0.0, max=1e9, step=0.5,
                      tooltip="How much, in the unit below; 0 is no limit. Down saves memory and time and loses "
                              "memory of "
                              "the past; too little is refused with the least possible number."),
                given(io.Combo.Input, "unit", options=["chunks", "tokens", "MB", "GB"], default="chunks",
                      tooltip="Chunks and tokens count per layer; MB and GB are keys and values of all layers, "
                              "prompts and "
                              "batch items together."),
                given(io.Combo.Input, "method", options=[OLDEST_LEAVE, *SCORERS.names()], default=OLDEST_LEAVE,
                      tooltip="What gives way: whole chunks, oldest first, or the tokens that a scorer values least."),
                given(io.Int.Input, "sink_chunks", default=0, min=0, max=1000,
                      tooltip="First chunks that always stay. 1 or 2 keep a long video steady."),
                given(io.Int.Input, "recent_chunks", default=0, min=0, max=1000,
                      tooltip="Last finished chunks that always stay."),
                given(io.Combo.Input, "granularity", options=list(GRANULARITIES), default="token", advanced=True,
                      tooltip="What stays or goes as a whole, for methods that score."),
                given(io.Combo.Input, "merger", options=[NO_MERGER, *MERGERS.names()], default=NO_MERGER, advanced=True,
                      tooltip="Folds tokens into similar ones in place of dropping them."),
                given(io.String.Input, "more_settings", default="", advanced=True,
                      tooltip="Settings of the method, as in 'mix=0.07' (FlowCache's share of importance)."),
                given(io.Combo.Input, "device", options=["auto", "gpu", "cpu"], default="auto",
                      tooltip="Where keys and values lie: gpu beside the model, cpu in main memory with the next "
                              "layer's copied ahead, auto by free memory."),
                given(io.Combo.Input, "dtype", options=["auto", *KV_DTYPES], default="auto",
                      tooltip="Precision of the cache; auto is the model's, fp8 and int8 halve its memory."),
            ],
            outputs=[io.Model.Output(display_name="MODEL")])

    @classmethod
    def execute(cls, model: Any, amount: float, unit: str, method: str, sink_chunks: int, recent_chunks: int,
                granularity: str, merger: str, more_settings: str, device: str, dtype: str) -> io.NodeOutput:
        budget, compression = memory(amount, unit, method, granularity, merger, more_settings, sink_chunks,
                                     recent_chunks)
        return io.NodeOutput(attach(model, budget=budget, compression=compression, kv_dtype=dtype,
                                    kv_device=checked_device(device, model.load_device)))
