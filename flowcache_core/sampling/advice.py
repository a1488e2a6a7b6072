"""What somebody should know of a request before it runs; one line each, and none where there is nothing to say."""

from collections.abc import Sequence

from ..plan import ChunkPlan
from ..profiles import Profile
from ..reuse import ReusePolicy


def advice(profile: Profile, plans: Sequence[ChunkPlan], policy: ReusePolicy, moving: bool = False) -> list[str]:
    """plans: of all windows. moving: the schedule's window moves along without restarts."""
    said, plan = [], plans[0]
    if profile.few_steps and policy.name != "off":
        one = sum(1 for _ in plan.passes()) / len(plan.chunks)
        said.append(f"{profile.name}: a chunk is {one:.3g} passes, so skipping one of them gains at most "
                    f"{one / (one - 1):.3g}x; with so few steps a KV window or budget gains more than a policy")
    if moving:
        said.append("schedule rolling is experimental: the model was trained on whole windows, not on one that moves")
    trained, frames = profile.trained_frames, max(p.frames for p in plans)
    sees_all = any(len(p.reads) + len(p.chunks) == len(plan.chunks) for p in plan.passes())
    if trained is not None and frames > trained and not moving and sees_all:
        said.append(f"{frames} latent frames: {profile.name} was trained on, or shown at, {trained}; quality falls "
                    "beyond, unless a window (--history) keeps what a chunk sees short")
    return said


def left_out(profile: Profile, plan: ChunkPlan) -> list[str]:
    """Which passes of the model's authors a plan does without: their keys and velocities are others then."""
    kinds, lone = {p.kind for p in plan.passes()}, plan.name in ("dense", "rolling")
    said = []
    if profile.commit and "commit" not in kinds and not lone and len(plan.chunks) > 1:
        said.append("clean passes left out: the keys of a finished chunk are those of its last computed step")
    if profile.near_clean_from is not None and "near_clean" not in kinds and plan.name == "pipelined":
        said.append("near-clean passes left out: the oldest chunk's velocity is not blended with that of a run of it "
                    "alone")
    return said
