"""What a profile says about a run: noise levels, guidance, and how far a chunk looks back."""

from ..guidance import Guidance, MagiGuidance
from ..plan import ChunkPlan
from ..solvers import SigmaTable, flow_table, listed_table
from ..solvers.magi_times import magi_table
from .profile import Profile

SHORTCUT = "8,16,16"   # MAGI-1's grid of 12 steps


def step_table(profile: Profile, steps: int, shift: float) -> SigmaTable:
    """Levels and timesteps of a run of `steps`. Raises ValueError where the profile lists another number of them."""
    if profile.family == "magi-1":
        return magi_table(steps, shift, SHORTCUT if profile.distilled else None)
    if not profile.step_list:
        return flow_table(steps, shift, profile.truncate_timesteps)
    if steps != profile.steps:
        raise ValueError(f"{steps} steps: profile {profile.name} lists the {profile.steps} steps "
                         f"{', '.join(f'{t:g}' for t in profile.step_list)}; take those, or copy the profile and "
                         "change its step_list")
    return listed_table(profile.step_list, shift, profile.warp_steps)


def first_table(profile: Profile, plan: ChunkPlan, shift: float) -> SigmaTable | None:
    """Those of chunk 0, where the plan gives it other steps."""
    return None if plan.first_steps is None else listed_table(profile.first_step_list, shift, profile.warp_steps)


def run_guidance(profile: Profile, scale: float) -> float | Guidance:
    """MAGI-1's base models are guided by three passes a step."""
    return MagiGuidance(text=scale) if profile.family == "magi-1" and not profile.distilled else scale


def profile_history(profile: Profile) -> tuple[int | None, int]:
    """Chunks that a chunk may look back to, and the first ones that stay visible, by the profile's window."""
    if profile.window_frames is None:
        return None, 0
    sink = -(-profile.sink_frames // profile.chunk_frames)
    own = profile.steps if profile.plan == "rolling" else 1
    return profile.window_frames // profile.chunk_frames - own - sink, sink
