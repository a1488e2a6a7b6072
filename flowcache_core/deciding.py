"""What a run asks its policy: which steps a pass takes, what is known of them, and what the policy makes of that."""

from .lanes import Lane, Lanes
from .latent_video import LatentVideo
from .plan.chunk_plan import Pass
from .plan.context import context_changes
from .reuse.contract import Decision, StepInfo
from .signal_source import SignalSource


class Deciding:
    """tokens_per_frame: of the latent; video_chunks: chunks of the whole video, for thresholds by chunk."""

    def __init__(self, lanes: Lanes, video: LatentVideo, signals: SignalSource, tokens_per_frame: int,
                 video_chunks: int) -> None:
        self.plan, self.settings = video.plan, video.settings
        self._lanes, self._video, self._signals = lanes, video, signals
        self._tokens, self._video_chunks = tokens_per_frame, video_chunks
        self._changes = context_changes(self.plan)
        self._rows = [n for n, row in enumerate(self.plan.rows) if any(p.kind == "denoise" for p in row)]
        self._row: dict[Lane, Decision] = {}

    def tokens(self, chunk: int) -> int:
        return self.plan.chunks[chunk].frames * self._tokens

    def streams(self, p: Pass) -> tuple[str, ...]:
        """The streams that a pass runs: those that count, and only the cached ones where there is nothing but keys."""
        guide = self.settings.guide
        if not p.steps:
            return guide.writers
        wanted = {stream for timestep in self._video.timesteps(p) for stream in guide.needed(timestep)}
        return tuple(stream for stream in guide.streams if stream in wanted)

    def infos(self, number: int, p: Pass) -> list[StepInfo]:
        """The steps of a denoising pass in row `number`, by chunk, stream and item."""
        infos, edge, first = [], number in (0, len(self.plan.rows) - 1), self.settings.streams[0]
        streams, strength = self.streams(p), self.settings.guide.strength
        for chunk, step in p.moves:
            sigmas, changed = self._video.table(chunk).sigmas, (chunk, step) in self._changes
            steps = self.plan.steps_of(chunk)
            outside = not self.settings.may_skip(step, steps)
            infos += [StepInfo(chunk, self._video_chunks, step, steps, stream, item, sigmas[step],
                               sigmas[step + 1], p.must_compute or outside, edge, self.tokens(chunk),
                               None if stream == first else first, strength, changed, outside,
                               self._signals.measure)
                      for stream in streams for item in range(self.settings.items)]
        return infos

    def decide(self, number: int, p: Pass) -> dict[Lane, Decision]:
        """What is done in a denoising pass."""
        infos = self.infos(number, p)
        if self._lanes.policy.per_row:
            return {lane: self._row[lane] for lane in (Lane(i.chunk, i.stream, i.item) for i in infos)}
        return self._lanes.decide(infos, self._signals.of(p), lambda stream: self._keeps_keys(p, stream))

    def begin_row(self, number: int) -> None:
        """Decides for a whole row, where the policy does."""
        passes = [p for p in self.plan.rows[number] if p.kind == "denoise"]
        if not (passes and self._lanes.policy.per_row):
            return
        infos = [info for p in passes for info in self.infos(number, p)]
        signals = {chunk: self._signals.of(p) for p in passes for chunk, _ in p.moves}
        told = {(i.stream, i.item): i for i in sorted(infos, key=lambda i: i.step)}   # the oldest chunk's
        row = [i._replace(step=self._rows.index(number), steps=len(self._rows)) for i in told.values()]
        self._row = self._lanes.decide_row(row, infos, lambda lane: signals[lane.chunk](lane))

    def _keeps_keys(self, p: Pass, stream: str) -> bool:
        return not p.joint and p.chunks == p.writes and self.settings.guide.cache_of(stream) == stream
