"""In which order are chunks denoised, and what may each see? Pure ints."""

from .builders import dense, pipelined, rolling, sequential
from .chunk_plan import Chunk, ChunkPlan, History, Pass, Row, split_frames
from .diffusion_forcing import StepTable, diffusion_forcing, step_table
from .windows import Window, outer_windows

__all__ = ["Chunk", "ChunkPlan", "History", "Pass", "Row", "StepTable", "Window", "dense", "diffusion_forcing",
           "outer_windows", "pipelined", "rolling", "sequential", "split_frames", "step_table"]
