"""Sampler Chunked AR."""

from typing import Any

import folder_paths
from comfy_api.latest import io

from ..flowcache_core.solvers import NOISE_RULES, SOLVERS
from .bridge.chunked import ChunkedSampler
from .bridge.keeping import collector, place_of
from .bridge.run import ChunkRequest
from .chunked_sampler import frame_inputs, schedule_inputs, teller
from .declare import given, schema
from .sampling import AS_PROFILED, GIVEN, encoded_prompts


class ChunkedARSamplerSelect(io.ComfyNode):
    """For SamplerCustomAdvanced, with its own noise, sigmas and guider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_SamplerChunkedAR", "Sampler Chunked AR",
            description="The chunked sampler as a SAMPLER: noise, guider and sigmas come from their own nodes, "
                        "guidance variants included. The sigmas are those of one chunk. Frames are not decoded on the "
                        "way, and the report is in the out_folder.",
            search_aliases=["autoregressive", "causal", "sampler", "custom", "flowcache"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *schedule_inputs(),
                given(io.Combo.Input, "solver", options=[AS_PROFILED, *SOLVERS.names()], default=AS_PROFILED,
                      tooltip="How a step is taken. renoise is for few-step models alone."),
                given(io.Combo.Input, "noise_rule", options=[GIVEN, AS_PROFILED, *NOISE_RULES.names()], default=GIVEN,
                      tooltip="given: the noise node's, at the start. The others draw by its seed."),
                given(io.String.Input, "prompts", default="", multiline=True, optional=True,
                      tooltip="Prompts that change over time, as in '0: a cat; 4: a dog', in place of the guider's "
                              "positive one. Needs clip."),
                given(io.String.Input, "out_folder", default="", optional=True,
                      tooltip="A folder in ComfyUI's output folder for finished chunks, the state to go on from, and "
                              "the report, which FlowCache Report reads there. Empty: nothing is kept."),
                given(io.String.Input, "resume_from", default="", optional=True,
                      tooltip="The out_folder of a run of this graph that was stopped: goes on behind its last "
                              "finished chunk, and ends with the same video."),
                given(io.Clip.Input, "clip", optional=True, tooltip="Encodes the prompts per chunk."),
                given(io.Vae.Input, "vae", optional=True, tooltip="Encodes start and end image."),
                *frame_inputs(),
            ],
            outputs=[io.Sampler.Output(display_name="SAMPLER")])

    @classmethod
    def execute(cls, chunk_frames: int, schedule: str, ar_step: int, solver: str, noise_rule: str, prompts: str = "",
                out_folder: str = "", resume_from: str = "", clip: Any = None, prefix_latents: Any = None,
                **images: Any) -> io.NodeOutput:
        request = ChunkRequest(solver=solver, chunk_frames=chunk_frames, ar_step=ar_step, plan=schedule,
                               noise=noise_rule, prompts=encoded_prompts(prompts, clip),
                               prefix=None if prefix_latents is None else prefix_latents["samples"], **images)
        words = teller(cls.hidden.unique_id)
        place = place_of(folder_paths.get_output_directory(), out_folder, resume_from)
        return io.NodeOutput(ChunkedSampler(request, lambda: collector(place, None, words)))
