"""FlowCache Plan Preview."""

from typing import Any

from comfy_api.latest import io, ui

from ..flowcache_core.report.forecast_picture import forecast_picture, forecast_text
from .bridge.run import ORDERS
from .chunked_sampler import overlap_input
from .declare import given, schema
from .forecasting import foretold
from .pictures import to_images
from .sampling import AS_PROFILED, Asked


class PlanPreview(io.ComfyNode):
    """The run before it runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def whole(name: str, default: int, low: int, high: int, tooltip: str, **more: Any) -> Any:
            return given(io.Int.Input, name, default=default, min=low, max=high, tooltip=tooltip, **more)

        return schema(
            "FlowCache_PlanPreview", "FlowCache Plan Preview",
            description="Shows what a run will do before it is sampled: which chunk takes which step when, what will "
                        "be skipped where that can be known, model calls, memory of the KV cache and estimated time.",
            search_aliases=["schedule", "preview", "estimate", "memory", "flowcache"],
            inputs=[
                given(io.Model.Input, "model", tooltip="The model as it goes into the sampler, policy and budget on "
                                                       "it."),
                given(io.Conditioning.Input, "positive", tooltip="As in the sampler."),
                given(io.Conditioning.Input, "negative", tooltip="As in the sampler; it counts where cfg is not 1."),
                whole("steps", 0, 0, 1000, "Denoising steps a chunk; 0 is the profile's."),
                given(io.Float.Input, "cfg", default=0.0, min=0.0, max=100.0, step=0.1,
                      tooltip="Guidance: 1 is off; 0 is the profile's."),
                given(io.Float.Input, "shift", default=0.0, min=0.0, max=100.0, step=0.1,
                      tooltip="Of the noise levels; 0 is the profile's."),
                whole("width", 0, 0, 8192, "Pixels; 0 is the profile's. Unused with a latent.", step=16),
                whole("height", 0, 0, 8192, "Pixels; 0 is the profile's. Unused with a latent.", step=16),
                whole("length", 81, 1, 100001, "Pixel frames, 4n + 1. Unused where a latent is connected.", step=4),
                whole("batch_size", 1, 1, 64, "Videos at once."),
                whole("chunk_frames", 0, 0, 64, "Latent frames a chunk; 0 is what the model was made for."),
                given(io.Combo.Input, "schedule", options=list(ORDERS), default=AS_PROFILED,
                      tooltip="Order in which chunks are denoised, as in the sampler."),
                whole("ar_step", -1, -1, 1000, "diffusion_forcing: steps between the starts of neighbouring chunks; -1 "
                                               "is the profile's.", advanced=True),
                given(io.Boolean.Input, "estimate_time", default=True,
                      tooltip="Runs the model twice on one chunk to time it, which takes as long as two of its steps."),
                given(io.Latent.Input, "latent", optional=True, tooltip="Size and length of the video."),
                given(io.Sigmas.Input, "sigmas", optional=True, tooltip="Noise levels in place of the profile's."),
                overlap_input(),
            ],
            outputs=[io.Image.Output(display_name="picture"), io.String.Output(display_name="text")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo], is_output_node=True)

    @classmethod
    def execute(cls, model: Any, positive: list, negative: list, estimate_time: bool, **asked: Any) -> io.NodeOutput:
        told = foretold(model, positive, negative, Asked(seed=0, noise_rule=AS_PROFILED, prompts="", **asked),
                        estimate_time)
        picture, text = to_images(forecast_picture(told)), forecast_text(told)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (text,)}
        return io.NodeOutput(picture, text, ui=shown)
