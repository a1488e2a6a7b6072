"""An end frame: one more latent frame behind the video that every chunk sees and that no step touches."""

from dataclasses import replace

from .chunk_plan import Chunk, ChunkPlan, Pass, Row


def with_end_frame(plan: ChunkPlan) -> ChunkPlan:
    """The plan with an end frame behind its last chunk.

    Joint plans forward it in every pass, as SkyReels-V2 does. In plans with one chunk a pass nobody would see what
    comes last, so its keys are stored before the first step, and every other pass reads them. Raises ValueError for
    plans that move their window along the video.
    """
    if plan.name not in ("dense", "diffusion_forcing"):
        raise ValueError(f"an end frame with plan {plan.name}: only dense and diffusion_forcing can have one")
    if any(p.rebase for p in plan.passes()):
        raise ValueError("an end frame with a sink that moves along: choose one of the two")
    end = len(plan.chunks)
    chunk = Chunk(end, plan.chunks[-1].stop, plan.chunks[-1].stop + 1)
    rows: list[Row] = [tuple(_seeing(p, end) for p in row) for row in plan.rows]
    if not any(p.joint or not p.writes for p in plan.passes()):
        rows[0] = (Pass((end,), "prefix", writes=(end,), must_compute=True), *rows[0])
    return replace(plan, chunks=(*plan.chunks, chunk), rows=tuple(rows), end_chunks=1)


def _seeing(p: Pass, end: int) -> Pass:
    if p.writes:
        return replace(p, reads=(*p.reads, end))
    return replace(p, chunks=(*p.chunks, end), steps=(*p.steps, 0), still=(*p.still, end))
