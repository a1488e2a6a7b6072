"""Plans of every builder, for property tests."""

from hypothesis import strategies as st

from flowcache_core.plan import ChunkPlan, History, dense, diffusion_forcing, pipelined, rolling, sequential

histories = st.builds(History, recent=st.none() | st.integers(0, 3), sink=st.integers(0, 2))


@st.composite
def lengths(draw, most_chunks: int = 6) -> tuple[int, int, int]:
    """Frames, chunk frames, number of chunks; the last chunk is often short."""
    chunk_frames = draw(st.integers(1, 4))
    frames = draw(st.integers(1, most_chunks * chunk_frames))
    return frames, chunk_frames, -(-frames // chunk_frames)


@st.composite
def pyramids(draw) -> ChunkPlan:
    frames, chunk_frames, chunks = draw(lengths())
    steps, prefix = draw(st.integers(1, 8)), draw(st.integers(0, chunks - 1))
    base = draw(st.none() | st.integers(1, chunks + 1))
    least = -(-steps // base) if base is not None and base < chunks else 0
    return diffusion_forcing(frames, chunk_frames, steps, draw(st.integers(least, least + steps + 2)), prefix, base,
                             draw(histories), draw(st.booleans()))


@st.composite
def queues(draw) -> ChunkPlan:
    frames, chunk_frames, chunks = draw(lengths())
    return sequential(frames, chunk_frames, draw(st.integers(1, 6)), draw(st.none() | st.integers(1, 8)),
                      draw(st.integers(0, chunks - 1)), draw(histories), draw(st.booleans()))


@st.composite
def pipelines(draw) -> ChunkPlan:
    frames, chunk_frames, chunks = draw(lengths())
    window, rows = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    return pipelined(frames, chunk_frames, window * rows, window, draw(st.integers(0, chunks - 1)), draw(histories),
                     draw(st.booleans()), draw(st.none() | st.integers(0, window * rows)))


@st.composite
def joint_plans(draw) -> ChunkPlan:
    frames, chunk_frames, _ = draw(lengths())
    steps = draw(st.integers(1, 6))
    return draw(st.sampled_from([dense(frames, chunk_frames, steps),
                                 rolling(frames, chunk_frames, steps, draw(histories))]))


causal_plans = pyramids() | queues() | pipelines()
all_plans = causal_plans | joint_plans()
