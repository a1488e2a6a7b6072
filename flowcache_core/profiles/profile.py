"""What a model family needs to be sampled right: one frozen value, checked field by field."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from .entries import entry, problem_of, shown

FAMILIES = ("skyreels-v2-df", "wan-causal", "wan", "magi-1", "demo")
PLANS = ("diffusion_forcing", "sequential", "pipelined", "dense", "rolling")
ROPES = ("absolute", "anchor", "relative")
OVERLAPS = ("pixels", "latents")
IMAGES = ("none", "per_frame", "first_chunk", "start_latents")
WEIGHTS = ("ema", "raw")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Every number in one place. `sources` says of every field where its value is from; frames are latent frames
    unless pixel frames are said. Raises ValueError, one sentence, for a value that makes no sense."""

    name: str = entry("text", "what --profile calls it")
    title: str = entry("text", "model and size in words")
    family: str = entry("choice", "family of checkpoints it samples", choices=FAMILIES)
    files: tuple[str, ...] = entry("texts", "lower-case parts of file names that hint at it", ())
    weights: str = entry("choice", "which weights its authors sample, where a file has both", "ema", choices=WEIGHTS)
    distilled: bool = entry("flag", "MAGI-1 only: a distilled checkpoint, which no tensor tells from a base one", False)

    chunk_frames: int = entry("whole", "frames a chunk", low=1, high=64)
    latent: tuple[int, int] = entry("sides", "height and width of the latent, both even", low=2)
    fps: float = entry("number", "frames a second of the pixels", low=1, high=240)
    fps_index: int | None = entry("whole", "row of the fps embedding: 0 is 16 fps, 1 is 24", None, 0, 1)
    trained_frames: int | None = entry("whole", "frames that the model was trained on or shown at", None, 1)
    independent_first_frame: bool = entry("flag", "frame 0 is a chunk of its own", False)

    steps: int = entry("whole", "denoising steps a chunk; levels of a rolling window", low=1, high=1000)
    shift: float = entry("number", "shift of the noise levels", low=0.01, high=100)
    step_list: tuple[float, ...] = entry("numbers", "timesteps in place of evenly spaced ones", (), 0.001, 1000)
    first_step_list: tuple[float, ...] = entry("numbers", "those of chunk 0 where it takes others", (), 0.001, 1000)
    warp_steps: bool = entry("flag", "the lists are places in the shifted table, not timesteps", True)
    truncate_timesteps: bool = entry("flag", "the network is told whole timesteps", False)
    solver: str = entry("choice", "how a step is taken", choices=("unipc", "euler", "renoise"))
    noise_rule: str = entry("choice", "where noise comes from", "per_chunk", choices=("per_chunk", "comfy_ar"))
    guidance: float = entry("number", "classifier-free guidance, 1 is off", low=0, high=100)

    plan: str = entry("choice", "order of the chunks", choices=PLANS)
    ar_step: int = entry("whole", "rows between the starts of neighbouring chunks (diffusion_forcing)", 0, 0)
    in_flight: int = entry("whole", "chunks in flight (pipelined)", 5, 1)
    ranges: tuple[int, ...] = entry("numbers", "chunks that one sees in equal parts of its steps, itself included; "
                                    "used where asked for (pipelined)", (), 1, 100)
    near_clean_from: float | None = entry("number", "share of the steps from which near-clean passes run", None, 0, 1)
    commit: bool = entry("flag", "a finished chunk is run once more, at the context timestep, for its keys", True)
    context_timestep: float = entry("number", "told to the network in commit and prefix passes", 0.0, 0, 1000)

    window_frames: int | None = entry("whole", "frames a pass sees, its own and the sink included", None, 1)
    sink_frames: int = entry("whole", "first frames that stay visible", 0, 0)
    commit_frames: int | None = entry("whole", "frames a commit pass sees, its own included", None, 1)
    rope: str = entry("choice", "places of old keys: as they were, sink moved along, or counted anew", "absolute",
                      choices=ROPES)
    recache: bool = entry("flag", "a new prompt runs the visible frames once more for their keys", False)
    recache_sink: bool = entry("flag", "that pass also renews the sink", False)

    base_frames: int | None = entry("whole", "frames of a window after which positions restart", None, 1)
    overlap_pixel_frames: int = entry("whole", "pixel frames that the next window begins with", 0, 0)
    overlap: str = entry("choice", "how the next window begins: with pixels encoded again, or with latents as they are "
                         "but for the first of them", "pixels", choices=OVERLAPS)
    addnoise: float = entry("number", "timestep told of, and noise put on, the overlap", 0.0, 0, 999)
    image: str = entry("choice", "how a start image is taken", "none", choices=IMAGES)

    presets: str = entry("text", "file in presets/ with its tested settings")
    source: str = entry("text", "where the values are from")
    sources: Mapping[str, str] = entry("sources", "for single fields, where else", ())

    def __post_init__(self) -> None:
        for f in fields(self):
            problem = problem_of(getattr(self, f.name), f.metadata, f.default is None)
            if problem:
                raise ValueError(f"profile {self.name!r}: {f.name} {shown(getattr(self, f.name))}: expected {problem} "
                                 f"({f.metadata['doc']})")
        self._check_together()

    def _check_together(self) -> None:
        def refuse(what: str) -> None:
            raise ValueError(f"profile {self.name!r}: {what}")

        if self.step_list and len(self.step_list) != self.steps:
            refuse(f"steps {self.steps} with a step_list of {len(self.step_list)}: the two must agree")
        if self.first_step_list and not self.step_list:
            refuse("first_step_list without step_list: give both")
        for listed in (self.step_list, self.first_step_list):
            if any(a <= b for a, b in zip(listed[:-1], listed[1:], strict=True)):
                refuse(f"step list {list(listed)}: the steps must fall")
        own = self.chunk_frames * (self.steps if self.plan == "rolling" else 1)
        if self.window_frames is not None and self.window_frames < self.sink_frames + own:
            refuse(f"window_frames {self.window_frames}: a pass of {own} frames beside a sink of {self.sink_frames} "
                   f"needs at least {self.sink_frames + own}")
        if self.base_frames is not None and self.base_frames <= (self.overlap_pixel_frames + 3) // 4:
            refuse(f"base_frames {self.base_frames} with an overlap of {self.overlap_pixel_frames} pixel frames: the "
                   "overlap must be shorter than the window")

    @property
    def few_steps(self) -> bool:
        """Whether a chunk takes so few steps that a reuse policy has nothing to skip."""
        return self.steps <= 8
