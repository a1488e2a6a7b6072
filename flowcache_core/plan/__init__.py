"""In which order are chunks denoised, and what may each see? Pure ints."""

from .builders import Recache, pipelined, recache_passes, sequential
from .chunk_plan import Chunk, ChunkPlan, History, Pass, Row, split_frames
from .diffusion_forcing import StepTable, diffusion_forcing, step_table
from .end_frame import with_end_frame
from .joint import dense, rolling
from .windows import Window, outer_windows

__all__ = ["Chunk", "ChunkPlan", "History", "Pass", "Recache", "Row", "StepTable", "Window", "dense",
           "diffusion_forcing", "outer_windows", "pipelined", "recache_passes", "rolling", "sequential",
           "split_frames", "step_table", "with_end_frame"]
