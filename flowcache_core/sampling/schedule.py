"""A schedule in words, and the plan that it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..conformance import released_magi_plan, released_plan
from ..plan import (
    ChunkPlan,
    History,
    Recache,
    dense,
    diffusion_forcing,
    pipelined,
    rolling,
    sequential,
    with_end_frame,
)
from ..profiles import Profile
from ..profiles.schedule import profile_history

PLANS = ("diffusion_forcing", "sequential", "pipelined", "dense", "rolling")
SCHEDULES = ("async", "sync", "dense", "rolling")
ASYNC_SHARE = 10   # chunks start a tenth of the steps apart, as the 50 steps and ar_step 5 of SkyReels-V2's release


@dataclass(frozen=True)
class PlanRequest:
    """frames: latent frames; ar_step: rows between the starts of chunks (diffusion_forcing, dense); window: chunks in
    flight (pipelined); history, sink: chunks that a chunk may see (None: all) and the first ones that stay visible;
    rebase: those are told to lie right before the others; most: chunks that a rolling window sees; commit_history:
    recent chunks that its commit passes see; near_clean_from: share of the steps after which the oldest chunk also runs
    alone, ranges: chunks that one sees in equal parts of its steps (pipelined); base_chunks: most chunks of a window
    that moves along (diffusion_forcing); switches: chunks before which the window's keys are computed anew, by
    `recache`, with a new sink where `renew_sink` (sequential); end: with an end frame; released: as FlowCache's release
    carries it out (diffusion_forcing, pipelined), gathers: with its compression."""

    name: str
    frames: int
    chunk_frames: int
    steps: int
    ar_step: int
    commit: bool
    window: int = 5
    history: int | None = None
    sink: int = 0
    first_steps: int | None = None
    near_clean_from: float | None = None
    rebase: bool = False
    most: int | None = None
    commit_history: int | None = None
    base_chunks: int | None = None
    ranges: tuple[int, ...] = ()
    switches: tuple[int, ...] = ()
    recache: Recache = "joint"
    renew_sink: bool = False
    prefix_chunks: int = 0
    end: bool = False
    released: bool = False
    gathers: bool = False

    def build(self) -> ChunkPlan:
        """Raises ValueError where the numbers make no plan."""
        if self.name not in PLANS:
            raise ValueError(f"unknown plan {self.name!r}: choose one of {', '.join(PLANS)}")
        plan = self._build(History(self.history, self.sink, self.rebase), self.frames, self.chunk_frames, self.steps)
        plan = with_end_frame(plan) if self.end else plan
        return self._as_released(plan) if self.released else plan

    def _as_released(self, plan: ChunkPlan) -> ChunkPlan:
        if self.name == "diffusion_forcing":
            return released_plan(plan, None, self.gathers, bool(self.prefix_chunks) and not self.ar_step)
        if self.name == "pipelined":
            return released_magi_plan(plan)
        raise ValueError(f"plan {self.name} as the authors' release carries it out: FlowCache was released for "
                         "diffusion_forcing and pipelined; choose one of these, or a preset of ours")

    def _build(self, history: History, *args: int) -> ChunkPlan:
        given = {"prefix_chunks": self.prefix_chunks}
        if self.ranges and self.name != "pipelined":
            raise ValueError(f"ranges {', '.join(map(str, self.ranges))} with plan {self.name}: only pipelined has any"
                             "; leave them out, or say with a history what a chunk sees")
        if self.name == "diffusion_forcing":
            base = min(self.base_chunks, -(-self.frames // self.chunk_frames)) if self.base_chunks else None
            return diffusion_forcing(*args, self.ar_step, base_chunks=base, history=history, commit=self.commit,
                                     **given)
        if self.name == "sequential":
            return sequential(*args, self.first_steps, history=history, commit=self.commit, switches=self.switches,
                              recache=self.recache, renew_sink=self.renew_sink, **given)
        if self.name == "pipelined":
            late = None if self.near_clean_from is None else round(self.near_clean_from * self.steps)
            return pipelined(*args, self.window, history=history, commit=self.commit, near_clean_from=late,
                             ranges=self.ranges, **given)
        if self.name == "dense":
            return dense(*args, self.ar_step, **given)
        if self.prefix_chunks:
            raise ValueError(f"{self.prefix_chunks} given chunks with plan rolling: its window starts from noise; use "
                             "plan sequential")
        commits = None if self.commit_history is None else History(self.commit_history)
        return rolling(*args, history=history, most=self.most, commit_history=commits)


def plan_request(profile: Profile, frames: int, schedule: str | None = None, *, plan: str | None = None,
                 chunk_frames: int | None = None, steps: int | None = None, ar_step: int | None = None,
                 commit: bool | None = None, window: int | None = None, history: int | None = None,
                 sink: int | None = None, ranges: tuple[int, ...] = (), near_clean: bool = True) -> PlanRequest:
    """The profile's schedule with what somebody changes of it; None: as the profile has it.

    schedule: one of `SCHEDULES`, for diffusion forcing: chunks in flight one after the other or all in step, each
    seeing those before it; dense: all seeing all, as the authors of SkyReels-V2 sample; rolling: one window that moves
    along, without restarts. Raises ValueError for unknown words, or words that exclude one another.
    """
    steps = profile.steps if steps is None else steps
    name = plan or profile.plan
    base = None
    if schedule is not None:
        name, ar_step, base = _diffusion_forcing(profile, schedule, plan, steps, ar_step)
    elif ar_step is None:
        ar_step = 0 if name == "dense" else -(-profile.ar_step * steps // profile.steps)
    chunk = profile.chunk_frames if chunk_frames is None else chunk_frames
    made = PlanRequest(name, frames, chunk, steps, ar_step, profile.commit if commit is None else commit,
                       window or profile.in_flight, history, sink or 0, len(profile.first_step_list) or None,
                       profile.near_clean_from if near_clean else None, base_chunks=base, ranges=ranges,
                       renew_sink=profile.recache_sink)
    if profile.independent_first_frame:
        raise ValueError(f"profile {profile.name}: chunks of one size are what this version samples; set its "
                         "independent_first_frame to false")
    return made if history is not None or sink is not None else _as_profiled(made, profile)


def _diffusion_forcing(profile: Profile, schedule: str, plan: str | None, steps: int,
                       ar_step: int | None) -> tuple[str, int, int | None]:
    """Plan, ar_step and chunks of a moving window of a schedule."""
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
    if plan is not None:
        raise ValueError(f"schedule {schedule} together with plan {plan}: give one of the two")
    if profile.plan not in ("diffusion_forcing", "dense"):
        raise ValueError(f"schedule {schedule} with profile {profile.name}: schedules are those of diffusion forcing, "
                         f"this model samples by plan {profile.plan}; leave it out")
    if schedule == "dense":
        return "dense", ar_step or 0, None
    if schedule == "sync":
        if ar_step:
            raise ValueError(f"schedule sync with an ar_step of {ar_step}: all chunks in step is ar_step 0")
        return "diffusion_forcing", 0, None
    usual = -(-(profile.ar_step * steps) // profile.steps) or -(-steps // ASYNC_SHARE)
    if schedule == "async":
        return "diffusion_forcing", usual if ar_step is None else ar_step, None
    base = (profile.base_frames or 5 * profile.chunk_frames) // profile.chunk_frames
    return "diffusion_forcing", max(usual, -(-steps // base)) if ar_step is None else ar_step, base


def _as_profiled(made: PlanRequest, profile: Profile) -> PlanRequest:
    """With the window, the sink and the places of keys that the profile names."""
    recent, sink = profile_history(profile)
    made = replace(made, history=recent, sink=sink, rebase=profile.rope != "absolute")
    if made.name != "rolling" or profile.window_frames is None:
        return made
    commits = profile.commit_frames // profile.chunk_frames - 1 if profile.commit_frames else None
    return replace(made, most=profile.window_frames // profile.chunk_frames, commit_history=commits)


def switch_chunks(prompts: Sequence[str]) -> tuple[int, ...]:
    """Chunks at which the prompt changes."""
    return tuple(c for c in range(1, len(prompts)) if prompts[c] != prompts[c - 1])
