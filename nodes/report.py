"""FlowCache Report."""

import json
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..flowcache_core.report import trace_picture
from ..flowcache_core.report.run_table import run_json, run_text
from .declare import Report, given, schema
from .extending import changed_run
from .pictures import to_images
from .reporting import chosen_trace


class FlowCacheReport(io.ComfyNode):
    """What was computed and skipped, why, and what it cost."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_Report", "FlowCache Report",
            description="Shows what a run computed and skipped, by which number, and what time and memory it took: as "
                        "a picture, a table and JSON. The JSON is also in the history of the HTTP API.",
            search_aliases=["statistics", "trace", "skipped steps", "speed", "flowcache"],
            inputs=[
                given(Report.Input, "report", optional=True, tooltip="From the Chunked AR Sampler."),
                given(io.String.Input, "folder", default="", optional=True,
                      tooltip="The out_folder of a run, in ComfyUI's output folder, in place of a report: of Sampler "
                              "Chunked AR, or of an earlier run."),
                given(io.Latent.Input, "after", optional=True,
                      tooltip="With a folder: what the run makes, so that its report is read when it is there."),
            ],
            outputs=[io.Image.Output(display_name="picture"), io.String.Output(display_name="table"),
                     io.String.Output(display_name="json")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo], is_output_node=True)

    @classmethod
    def execute(cls, folder: str = "", report: Any = None, after: Any = None) -> io.NodeOutput:
        report = chosen_trace(folder_paths.get_output_directory(), folder.strip(), report)
        picture, table, data = to_images(trace_picture(report)), run_text(report), run_json(report)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (table,), "report": (data,)}
        return io.NodeOutput(picture, table, json.dumps(data), ui=shown)

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **_: object) -> str:
        return changed_run(folder_paths.get_output_directory(), folder)
