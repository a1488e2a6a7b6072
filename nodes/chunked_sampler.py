"""Chunked AR Sampler."""

import sys
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..flowcache_core.solvers import NOISE_RULES
from .bridge.run import ORDERS
from .declare import Report, given, schema
from .sampling import AS_PROFILED, GIVEN, Asked, sample

try:
    from comfy_execution.graph_utils import ExecutionBlocker
except ImportError:   # older hosts keep it elsewhere
    from comfy_execution.graph import ExecutionBlocker

NO_FRAMES = "the Chunked AR Sampler decodes frames only with a vae: connect one, or decode its LATENT"


def _whole(name: str, default: int, low: int, high: int, tooltip: str, **more: Any) -> Any:
    return given(io.Int.Input, name, default=default, min=low, max=high, tooltip=tooltip, **more)


def teller(node_id: str | None) -> Callable[[str], None] | None:
    """Shows words on the node while it runs, where the host can."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)   # not there in a process without a server
    send = getattr(getattr(server, "instance", None), "send_progress_text", None)
    return None if send is None or not node_id else lambda text: send(text, node_id)


def schedule_inputs() -> list[Any]:
    return [
        _whole("chunk_frames", 0, 0, 64, "Latent frames a chunk; 0 is what the model was made for."),
        given(io.Combo.Input, "schedule", options=list(ORDERS), default=AS_PROFILED,
              tooltip="Order in which chunks are denoised: one after the other (sequential), or several in flight."),
        _whole("ar_step", -1, -1, 1000, "diffusion_forcing: steps between the starts of neighbouring chunks; 0 "
                                        "denoises "
               "all in step, as many as steps one after the other, -1 is the profile's.", advanced=True)]


def overlap_input() -> Any:
    return _whole("overlap", 0, 0, 4001, "Pixel frames that a window repeats of the one before, 4n + 1, where a video "
                                         "is longer than the model sees; 0 is the profile's.", advanced=True,
                  optional=True)


def frame_inputs() -> list[Any]:
    """What a video may be given of itself."""
    return [
        given(io.Image.Input, "start_image", optional=True,
              tooltip="The video's first frame, for models that take one. Needs a vae."),
        given(io.Image.Input, "end_image", optional=True,
              tooltip="A frame that the video is to end before. Needs a vae."),
        given(io.Latent.Input, "prefix_latents", optional=True,
              tooltip="Latent frames, whole chunks, that the video begins with; they count in its length.")]


class ChunkedARSampler(io.ComfyNode):
    """Everything in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_ChunkedARSampler", "Chunked AR Sampler",
            description="Makes a video chunk by chunk, as autoregressive models are made to. Shows the chunk at work, "
                        "and "
                        "with a vae decodes every finished one, so that long videos need no more memory.",
            search_aliases=["autoregressive", "causal", "long video", "self-forcing", "skyreels", "flowcache"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                given(io.Model.Input, "model", tooltip="From Load AR Video Model, with or without policy and KV "
                                                       "budget."),
                given(io.Conditioning.Input, "positive", tooltip="What the video shows."),
                given(io.Conditioning.Input, "negative", tooltip="What it does not show; unused where cfg is 1."),
                _whole("seed", 0, 0, 0xffffffffffffffff, "Same seed, same video. A longer video begins with the same "
                       "chunks.", control_after_generate=True),
                _whole("steps", 0, 0, 1000, "Denoising steps a chunk; 0 is the profile's."),
                given(io.Float.Input, "cfg", default=0.0, min=0.0, max=100.0, step=0.1,
                      tooltip="Guidance: 1 is off and runs the model once a step; 0 is the profile's."),
                given(io.Float.Input, "shift", default=0.0, min=0.0, max=100.0, step=0.1,
                      tooltip="Moves noise levels towards noise; 0 is the profile's."),
                _whole("width", 0, 0, 8192, "Pixels; 0 is the profile's. Unused with a latent.", step=16),
                _whole("height", 0, 0, 8192, "Pixels; 0 is the profile's. Unused with a latent.", step=16),
                _whole("length", 81, 1, 100001, "Pixel frames, 4n + 1. Unused where a latent is connected.", step=4),
                _whole("batch_size", 1, 1, 64, "Videos at once."),
                *schedule_inputs(),
                given(io.Combo.Input, "noise_rule", options=[AS_PROFILED, *NOISE_RULES.names(), GIVEN],
                      default=AS_PROFILED, advanced=True,
                      tooltip="Where noise comes from: by seed and chunk (per_chunk), as ComfyUI's own AR sampler "
                              "draws "
                              "it (comfy_ar), or what a noise node or KSampler would begin with (given)."),
                given(io.String.Input, "prompts", default="", multiline=True,
                      tooltip="Prompts that change over time, as in '0: a cat; 4: a dog': from chunk 4 on the second. "
                              "Needs clip; empty is the positive prompt throughout."),
                given(io.String.Input, "out_folder", default="",
                      tooltip="A folder in ComfyUI's output folder for finished chunks and the state to go on "
                              "from. Empty: nothing is kept."),
                given(io.String.Input, "resume_from", default="",
                      tooltip="The out_folder of a run of this graph that was stopped: goes on behind its last "
                              "finished chunk, and ends with the same video."),
                given(io.Latent.Input, "latent", optional=True, tooltip="Size and length of the video; its content "
                                                                        "counts "
                      "where sigmas begin below 1."),
                given(io.Vae.Input, "vae", optional=True, tooltip="Decodes every chunk as soon as it is finished."),
                given(io.Clip.Input, "clip", optional=True, tooltip="Encodes the prompts per chunk."),
                *frame_inputs(),
                given(io.Noise.Input, "noise", optional=True, tooltip="Begins with this noise in place of the rule's."),
                given(io.Sigmas.Input, "sigmas", optional=True, tooltip="Noise levels in place of the profile's."),
                overlap_input(),
            ],
            outputs=[io.Latent.Output(display_name="LATENT"), Report.Output(display_name="report"),
                     io.Image.Output(display_name="frames")])

    @classmethod
    def execute(cls, model: Any, positive: list, negative: list, **asked: Any) -> io.NodeOutput:
        made = sample(model, positive, negative, Asked(**asked), teller(cls.hidden.unique_id))
        frames = ExecutionBlocker(NO_FRAMES) if made.frames is None else made.frames
        return io.NodeOutput(made.latent, made.trace, frames)
