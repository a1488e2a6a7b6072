"""AR Profile Override."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..flowcache_core.profiles import Profile, load_profile, profile_names
from ..flowcache_core.profiles.profile import PLANS
from .bridge.outer import attach
from .bridge.run import profile_of
from .bridge.template import template_of
from .choices import json_path
from .declare import given, schema

KEEP = "as it is"


def chosen_profile(model: Any, name: str, file: str) -> Profile:
    """The profile of that name, the one in a file, or the model's own. Raises ValueError."""
    file = json_path("profile_file", file, "'profiles NAME --out FILE' writes it")
    if file and name != KEEP:
        raise ValueError(f"profile_file {file!r} with profile {name}: give one of the two; set profile to '{KEEP}', or "
                         "leave the file empty")
    if file:
        return load_profile(file)
    return profile_of(template_of(model.model_options)) if name == KEEP else load_profile(name)


class ARProfileOverride(io.ComfyNode):
    """For models from other loaders, and for those who know better than a profile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_ARProfileOverride", "AR Profile Override",
            description="Says how a model is sampled: sets a profile on a model from any loader, or changes single "
                        "values "
                        "of the one it has.",
            search_aliases=["profile", "chunk size", "flowcache"],
            inputs=[
                given(io.Model.Input, "model", tooltip="A model of the Wan2.1 layout, from any loader."),
                given(io.Combo.Input, "profile", options=[KEEP, *profile_names()], default=KEEP,
                      tooltip="The model's family. 'as it is' keeps the profile that its loader has set."),
                given(io.Int.Input, "chunk_frames", default=0, min=0, max=64,
                      tooltip="Latent frames a chunk; 0 keeps the profile's. Models are trained for one size."),
                given(io.Combo.Input, "plan", options=[KEEP, *PLANS], default=KEEP,
                      tooltip="Order in which chunks are denoised."),
                given(io.Int.Input, "window_frames", default=-1, min=-1, max=1024,
                      tooltip="Latent frames that a chunk sees, its own included; 0 is all, -1 keeps the profile's."),
                given(io.Int.Input, "sink_frames", default=-1, min=-1, max=1024,
                      tooltip="First latent frames that stay visible; -1 keeps the profile's."),
                given(io.Float.Input, "context_timestep", default=-1.0, min=-1.0, max=1000.0, step=0.1, advanced=True,
                      tooltip="Noise told of finished chunks, 0 to 1000; -1 keeps the profile's."),
                given(io.String.Input, "profile_file", default="", optional=True, advanced=True,
                      tooltip="Path of a profile of your own, a .json file, in place of the one above."),
            ],
            outputs=[io.Model.Output(display_name="MODEL")])

    @classmethod
    def execute(cls, model: Any, profile: str, chunk_frames: int, plan: str, window_frames: int, sink_frames: int,
                context_timestep: float, profile_file: str = "") -> io.NodeOutput:
        base = chosen_profile(model, profile, profile_file)
        changes = {"chunk_frames": chunk_frames or None, "plan": None if plan == KEEP else plan,
                   "sink_frames": None if sink_frames < 0 else sink_frames,
                   "context_timestep": None if context_timestep < 0 else context_timestep}
        changes = {name: value for name, value in changes.items() if value is not None}
        if window_frames >= 0:
            changes["window_frames"] = window_frames or None
        return io.NodeOutput(attach(model, profile=replace(base, **changes)))

    @classmethod
    def fingerprint_inputs(cls, profile_file: str = "", **_: object) -> str:
        path = Path(profile_file.strip() or ".")
        return str(path.stat().st_mtime_ns) if profile_file.strip() and path.is_file() else ""
