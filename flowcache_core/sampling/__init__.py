"""A video as somebody asks for it: schedule, prompts, given frames, windows. Command line and nodes share it."""

from .advice import advice
from .behind import REBUILT
from .request import RunRequest
from .schedule import PLANS, SCHEDULES, PlanRequest, plan_request
from .stitching import latents_for, shown_frames
from .video_request import Sources, VideoRequest, profile_windows, video_request
from .video_run import VideoRun

__all__ = ["PLANS", "REBUILT", "SCHEDULES", "PlanRequest", "RunRequest", "Sources", "VideoRequest", "VideoRun",
           "advice", "latents_for", "plan_request", "profile_windows", "shown_frames", "video_request"]
