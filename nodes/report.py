"""FlowCache Report."""

import json
from typing import Any

from comfy_api.latest import io, ui

from ..flowcache_core.report import trace_picture
from ..flowcache_core.report.run_table import run_json, run_text
from .declare import Report, given, schema
from .pictures import to_images


class FlowCacheReport(io.ComfyNode):
    """What was computed and skipped, why, and what it cost."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_Report", "FlowCache Report",
            description="Shows what a run computed and skipped, by which number, and what time and memory it took: as "
                        "a picture, a table and JSON. The JSON is also in the history of the HTTP API.",
            search_aliases=["statistics", "trace", "skipped steps", "speed", "flowcache"],
            inputs=[given(Report.Input, "report", tooltip="From the Chunked AR Sampler.")],
            outputs=[io.Image.Output(display_name="picture"), io.String.Output(display_name="table"),
                     io.String.Output(display_name="json")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo], is_output_node=True)

    @classmethod
    def execute(cls, report: Any) -> io.NodeOutput:
        picture, table, data = to_images(trace_picture(report)), run_text(report), run_json(report)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (table,), "report": (data,)}
        return io.NodeOutput(picture, table, json.dumps(data), ui=shown)
