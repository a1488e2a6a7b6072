"""FlowCache: one node, one widget."""

from typing import Any

from comfy_api.latest import io

from .bridge.outer import attach
from .bridge.run import profile_of
from .bridge.template import template_of
from .choices import PRESETS, chosen_preset
from .declare import given, schema


class FlowCache(io.ComfyNode):
    """The drop-in: a preset of policy and KV budget."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_Apply", "FlowCache",
            description="Makes an AR video model faster with a preset of its family, which skips steps or bounds the "
                        "KV cache. Put it between loader and sampler.",
            search_aliases=["easycache", "teacache", "cache", "speed", "accelerate", "flowcache"],
            essentials_category="Video",
            inputs=[
                given(io.Model.Input, "model", tooltip="A model from Load AR Video Model, or with an AR Profile "
                                                       "Override."),
                given(io.Combo.Input, "preset", options=list(PRESETS), default="auto",
                      tooltip="off changes nothing; quality, balanced and fast skip more and more; auto is balanced."),
            ],
            outputs=[io.Model.Output(display_name="MODEL")])

    @classmethod
    def execute(cls, model: Any, preset: str) -> io.NodeOutput:
        chosen = chosen_preset(profile_of(template_of(model.model_options)), preset)
        return io.NodeOutput(attach(model, policy=chosen.policy, predictor=chosen.predictor, budget=chosen.budget,
                                    compression=chosen.compression, note=chosen.note, reuse_from=0.0,
                                    reuse_until=1.0))
