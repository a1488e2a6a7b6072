"""A video of any length as somebody asks for it: windows that follow one another, and what of it is given."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from ..generation import Given
from ..plan import ChunkPlan, Window, outer_windows, split_frames
from ..profiles import Profile
from ..protocols import Codec
from .request import RunRequest
from .schedule import PlanRequest, switch_chunks
from .stitching import Overlap, latents_for, shown_frames


@dataclass(frozen=True)
class Sources:
    """Pixels `(1, 3, T, H, W)` in [-1, 1] of the video's size. image: its first frame; end: the frame that it is to
    end before; video: what it continues, of which the last frames are taken."""

    image: Tensor | None = None
    end: Tensor | None = None
    video: Tensor | None = None


@dataclass(frozen=True)
class VideoRequest:
    """run: what every window's run has in common; its plan, prompts and places are set for each. schedule: of the
    whole video; prompts: one a chunk of it. windows: latent frames of each; the first has a prefix where one is given.
    pixel_frames: of the whole video (None: all that its latents give)."""

    run: RunRequest
    schedule: PlanRequest
    prompts: tuple[str, ...]
    windows: tuple[Window, ...]
    overlap: Overlap = "pixels"
    pixel_frames: int | None = None
    sources: Sources = field(default_factory=Sources, compare=False)

    @property
    def chunks(self) -> int:
        """Chunks of the finished video."""
        return self.first_chunk(len(self.windows) - 1) + self._chunks_of(len(self.windows) - 1)

    def _chunks_of(self, number: int) -> int:
        return len(split_frames(self.windows[number].frames, self.schedule.chunk_frames))

    def prefix_chunks(self, number: int) -> int:
        """Chunks that a window is given."""
        return self.windows[number].prefix // self.schedule.chunk_frames

    def first_chunk(self, number: int) -> int:
        """The number in the finished video of the first chunk of a window; chunks that are repeated count once."""
        return sum(self._chunks_of(n) - self.prefix_chunks(n + 1) for n in range(number))

    def window_of(self, chunk: int) -> int:
        """The window that makes a chunk of the finished video."""
        return next(n for n in range(len(self.windows)) if chunk < self.first_chunk(n) + self._chunks_of(n))

    def with_prompts(self, prompts: tuple[str, ...]) -> "VideoRequest":
        """With one prompt a chunk; where they change, families that recache their keys will."""
        if len(prompts) != self.chunks:
            raise ValueError(f"{len(prompts)} prompts for {self.chunks} chunks: expected one each")
        switches = switch_chunks(prompts) if self.run.profile.recache and self.schedule.name == "sequential" else ()
        return replace(self, prompts=prompts, schedule=replace(self.schedule, switches=switches))

    def plan(self, number: int) -> ChunkPlan:
        """The plan of a window."""
        first, window, last = self.first_chunk(number), self.windows[number], number == len(self.windows) - 1
        switches = tuple(c - first for c in self.schedule.switches if c - first > 0)
        return replace(self.schedule, frames=window.frames, prefix_chunks=self.prefix_chunks(number),
                       switches=switches, end=last and self.sources.end is not None).build()

    def window_run(self, number: int, given: Given) -> RunRequest:
        """The run of a window. given: its prefix, held frames and end frame."""
        first, plan = self.first_chunk(number), self.plan(number)
        prompts = self.prompts[first:first + len(plan.chunks) - plan.end_chunks]
        return replace(self.run, plan=plan, prompts=prompts, given=given, first_chunk=first, video_chunks=self.chunks)

    def shown_before(self, number: int) -> int:
        """Pixel frames that are shown before the first of a window is."""
        if not number:
            return 0
        left = shown_frames(self.windows[number].prefix) if self.overlap == "latents" else 0
        return shown_frames(self.windows[number - 1].stop) - left

    def opening(self, codec: Codec | None) -> Given:
        """What the first window is given. Raises ValueError where pixels are given and nothing encodes them."""
        s, window = self.sources, self.windows[0]
        if codec is None and not (s.image is s.video is None):
            raise ValueError("a start image or video without a VAE: give one that encodes it (--vae)")
        if s.video is not None:
            return Given(codec.encode(s.video[:, :, -shown_frames(window.prefix):]))
        if s.image is None:
            return Given()
        if window.prefix:   # the image as a still clip
            return Given(codec.encode(s.image.expand(-1, -1, shown_frames(window.prefix), -1, -1)))
        return Given(held={0: codec.encode(s.image)})

    def ending(self, number: int, codec: Codec | None) -> Tensor | None:
        """The end frame's latent, for the last window."""
        if self.sources.end is None or number < len(self.windows) - 1:
            return None
        if codec is None:
            raise ValueError("an end image without a VAE: give one that encodes it (--vae)")
        return codec.encode(self.sources.end)


def profile_windows(profile: Profile, frames: int, chunk_frames: int) -> tuple[Window, ...]:
    """Windows in which a profile's model makes so many latent frames; one where it sees them all."""
    if profile.base_frames is None:
        return (Window(0, frames, 0),)
    overlap = latents_for(profile.overlap_pixel_frames) if profile.overlap_pixel_frames else 0
    return outer_windows(frames, profile.base_frames, overlap, chunk_frames)


def video_request(run: RunRequest, schedule: PlanRequest, sources: Sources | None = None, *,
                  base_frames: int | None = None, overlap_frames: int = 0, overlap: Overlap = "pixels",
                  pixel_frames: int | None = None) -> VideoRequest:
    """Divides `schedule.frames` into windows and says where given frames go; its prompts are still to be said.

    base_frames: latent frames of a window (None, or a schedule whose window moves along: one window). overlap_frames:
    latent frames that a window repeats, and that a given video fills. Raises ValueError where they do not fit.
    """
    sources = sources or Sources()
    frames, chunk = schedule.frames, schedule.chunk_frames
    if base_frames is None or schedule.base_chunks is not None:
        windows = (Window(0, frames, 0),)
    else:
        windows = outer_windows(frames, base_frames, overlap_frames, chunk)
    prefix = _opening_prefix(run.profile, sources, overlap_frames, chunk)
    if prefix >= windows[0].frames:
        raise ValueError(f"a start of {prefix} latent frames in a first window of {windows[0].frames}: nothing is left "
                         "to make; ask for a longer video")
    if prefix and sources.video is not None and sources.video.shape[2] < shown_frames(prefix):
        raise ValueError(f"a start video of {sources.video.shape[2]} frames: at least {shown_frames(prefix)} are "
                         "needed; give a longer one, or a shorter overlap")
    windows = (replace(windows[0], prefix=prefix), *windows[1:])
    return VideoRequest(run, schedule, (), windows, overlap, pixel_frames, sources)


def _opening_prefix(profile: Profile, sources: Sources, overlap_frames: int, chunk: int) -> int:
    """Latent frames of whole chunks that the first window is given."""
    if sources.video is not None and sources.image is not None:
        raise ValueError("a start image together with a start video: give one of the two")
    if sources.video is not None:
        return max(overlap_frames // chunk, 1) * chunk
    if sources.image is None or profile.image == "per_frame":
        return 0
    if profile.image == "none":
        raise ValueError(f"a start image with profile {profile.name}: the model was not trained to take one; copy the "
                         "profile and set its image to per_frame to try it all the same")
    return chunk
