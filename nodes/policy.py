"""FlowCache Policy."""

from typing import Any

from comfy_api.latest import io

from ..flowcache_core.reuse import POLICIES, PREDICTORS
from .bridge.outer import attach
from .bridge.run import profile_of
from .bridge.template import template_of
from .choices import FROM_PRESET, PRESETS, preset_named, reuse
from .declare import given, schema


class FlowCachePolicy(io.ComfyNode):
    """Which steps of which chunks may be skipped."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def count(name: str, tooltip: str) -> Any:
            return given(io.Int.Input, name, default=-1, min=-1, max=1000, tooltip=f"{tooltip} -1: as the policy has "
                                                                                   f"it.")

        def share(name: str, default: float, tooltip: str) -> Any:
            return given(io.Float.Input, name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip,
                         optional=True)

        return schema(
            "FlowCache_Policy", "FlowCache Policy",
            description="Skips denoising steps whose result would hardly differ from the last computed one, chunk by "
                        "chunk. Works with the Chunked AR Sampler, and with any sampler on the whole video.",
            search_aliases=["teacache", "easycache", "magcache", "step cache", "skip steps", "speed", "flowcache"],
            inputs=[
                given(io.Model.Input, "model", tooltip="A model with an AR profile."),
                given(io.Combo.Input, "policy", options=[FROM_PRESET, *POLICIES.names()], default=FROM_PRESET,
                      tooltip="How it is decided what may be skipped; 'from preset' takes the preset of the model's "
                              "family."),
                given(io.Combo.Input, "preset", options=list(PRESETS), default="auto",
                      tooltip="Counts where policy is 'from preset'. fast skips most, quality least; auto is "
                              "balanced."),
                given(io.String.Input, "threshold", default="",
                      tooltip="How much change to let pass: 0.1, by chunk '0:0.05, 1+:0.1', or '0.05->0.15' from "
                              "first to "
                              "last. Up is faster, down is closer to the uncached video, 0 is off. Empty: as it is."),
                count("warmup_steps", "First steps of every chunk that are always computed."),
                count("last_steps", "Last steps of every chunk that are always computed."),
                count("max_consecutive_skips", "Compute after this many skips in a row; 0 is no limit."),
                given(io.Combo.Input, "predictor", options=[FROM_PRESET, *PREDICTORS.names()], default=FROM_PRESET,
                      tooltip="What stands in for a skipped step: velocity needs no forward at all, residual runs "
                              "embedding and head with the current time."),
                given(io.String.Input, "more_settings", default="", advanced=True,
                      tooltip="Other settings of the policy, as in 'interval=3'."),
                share("start_percent", 0.0, "Share of the steps before which nothing is skipped: 0.15 computes the "
                                            "first 15 % of every chunk."),
                share("end_percent", 1.0, "Share of the steps after which nothing is skipped."),
                given(io.String.Input, "preset_file", default="", optional=True, advanced=True,
                      tooltip="Path of a preset that the command 'tune' wrote, in place of the one above."),
            ],
            outputs=[io.Model.Output(display_name="MODEL")])

    @classmethod
    def execute(cls, model: Any, policy: str, preset: str, threshold: str, warmup_steps: int, last_steps: int,
                max_consecutive_skips: int, predictor: str, more_settings: str, start_percent: float = 0.0,
                end_percent: float = 1.0, preset_file: str = "") -> io.NodeOutput:
        counts = {"warmup_steps": warmup_steps, "last_steps": last_steps,
                  "max_consecutive_skips": max_consecutive_skips}
        widgets = {"threshold": threshold.strip() or None, **{k: None if v < 0 else v for k, v in counts.items()}}
        made, stand_in = reuse(profile_of(template_of(model.model_options)), policy,
                               preset_named(preset, preset_file, policy), widgets, more_settings, predictor)
        if start_percent > end_percent:
            raise ValueError(f"start_percent {start_percent:g} above end_percent {end_percent:g}: nothing could be "
                             "skipped; set start below end, or policy to off")
        return io.NodeOutput(attach(model, policy=made, predictor=stand_in, reuse_from=start_percent,
                                    reuse_until=end_percent))
