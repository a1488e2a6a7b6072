"""A video as somebody asks for it: schedule, prompts, given frames, windows. Command line and nodes share it."""

from .request import RunRequest
from .schedule import PLANS, SCHEDULES, PlanRequest, plan_request

__all__ = ["PLANS", "SCHEDULES", "PlanRequest", "RunRequest", "plan_request"]
