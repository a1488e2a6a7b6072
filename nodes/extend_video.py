"""Extend AR Video."""

from typing import Any

import folder_paths
from comfy_api.latest import io

from .declare import given, schema
from .extending import beginning, changed_run


class ExtendARVideo(io.ComfyNode):
    """What a longer video begins with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_ExtendARVideo", "Extend AR Video",
            description="Goes on with a finished or stopped video: takes its latents, or the folder of its run, and "
                        "hands the sampler what to begin with and how long the whole is. The keys of what is given "
                        "are made again, one pass a chunk.",
            search_aliases=["continue", "longer", "append", "resume", "prefix", "flowcache"],
            inputs=[
                given(io.Model.Input, "model", tooltip="The model that is to go on; its profile says how long a chunk "
                                                       "is."),
                given(io.String.Input, "folder", default="",
                      tooltip="The out_folder of the run, in ComfyUI's output folder. Empty: connect latents."),
                given(io.Int.Input, "added_chunks", default=4, min=1, max=10000, tooltip="Chunks to add."),
                given(io.Latent.Input, "latents", optional=True,
                      tooltip="The video so far, in place of a folder. A last chunk that is not full is made anew."),
            ],
            outputs=[io.Latent.Output(display_name="prefix_latents"), io.Int.Output(display_name="length")])

    @classmethod
    def execute(cls, model: Any, folder: str, added_chunks: int, latents: Any = None) -> io.NodeOutput:
        samples, length = beginning(model, folder_paths.get_output_directory(), folder, latents, added_chunks)
        return io.NodeOutput({"samples": samples}, length)

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **_: object) -> str:
        return changed_run(folder_paths.get_output_directory(), folder)
