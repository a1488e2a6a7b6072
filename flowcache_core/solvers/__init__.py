"""How does one chunk take one step? Sigma tables, solvers and noise rules."""

from .base import SOLVERS, Solver
from .euler import Euler, Renoise
from .noise import NOISE_RULES, NoiseRule
from .sigmas import SigmaTable, flow_table, listed_table
from .unipc import UniPC

__all__ = ["NOISE_RULES", "SOLVERS", "Euler", "NoiseRule", "Renoise", "SigmaTable", "Solver", "UniPC", "flow_table",
           "listed_table"]
