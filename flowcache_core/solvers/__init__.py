"""How does one chunk take one step? Sigma tables, solvers and noise rules."""

from flowcache_core.solvers.base import SOLVERS, Solver
from flowcache_core.solvers.euler import Euler, Renoise
from flowcache_core.solvers.noise import NOISE_RULES, NoiseRule
from flowcache_core.solvers.sigmas import SigmaTable, flow_table, listed_table
from flowcache_core.solvers.unipc import UniPC

__all__ = ["NOISE_RULES", "SOLVERS", "Euler", "NoiseRule", "Renoise", "SigmaTable", "Solver", "UniPC", "flow_table",
           "listed_table"]
