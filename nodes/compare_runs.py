"""Compare Runs."""

from typing import Any

from comfy_api.latest import io, ui

from .comparing import compared
from .declare import Report, given, schema


class CompareRuns(io.ComfyNode):
    """Two videos of the same size beside one another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_CompareRuns", "Compare Runs",
            description="Puts a video beside a reference with a map of their differences, and measures PSNR, SSIM and, "
                        "with both reports, the speed-up. Compare with the same run, policy off.",
            search_aliases=["psnr", "ssim", "difference", "side by side", "quality", "flowcache"],
            inputs=[
                given(io.Image.Input, "reference", tooltip="Frames of the run without a policy."),
                given(io.Image.Input, "video", tooltip="Frames of the run to judge, as many and as large."),
                given(io.String.Input, "reference_label", default="uncached", tooltip="Name of the reference."),
                given(io.String.Input, "video_label", default="accelerated", tooltip="Name of the other video."),
                given(io.Float.Input, "gain", default=8.0, min=1.0, max=64.0, step=1.0,
                      tooltip="How much differences are brightened in the map."),
                given(Report.Input, "reference_report", optional=True, tooltip="Its report, for times and the "
                                                                              "speed-up."),
                given(Report.Input, "video_report", optional=True, tooltip="Its report, for times and the speed-up."),
            ],
            outputs=[io.Image.Output(display_name="side by side"), io.Image.Output(display_name="sheet"),
                     io.Float.Output(display_name="PSNR"), io.Float.Output(display_name="SSIM"),
                     io.String.Output(display_name="table")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo], is_output_node=True)

    @classmethod
    def execute(cls, reference: Any, video: Any, reference_label: str, video_label: str, gain: float,
                reference_report: Any = None, video_report: Any = None) -> io.NodeOutput:
        made = compared(reference, video, (reference_label, video_label), gain, (reference_report, video_report))
        shown = {**ui.PreviewImage(made.sheet, cls=cls).as_dict(), "text": (made.table,), "comparison": (made.data,)}
        return io.NodeOutput(made.panels, made.sheet, made.quality.psnr, made.quality.ssim, made.table, ui=shown)
