"""Which run the node Report tells of."""

from ..flowcache_core.trace import Trace, load_trace
from .bridge.keeping import TRACE, inside


def chosen_trace(root: str, folder: str, trace: Trace | None) -> Trace:
    """The trace that is given, or that of the run in a folder. Raises ValueError where not exactly one is there."""
    if bool(folder) == (trace is not None):
        raise ValueError("FlowCache Report takes either a report or a folder: " +
                         ("empty the folder or disconnect report" if folder else "give one of them"))
    if trace is not None:
        return trace
    path = inside(root, folder) / TRACE
    if not path.is_file():
        raise ValueError(f"folder {folder!r} holds no report ({TRACE}): give the out_folder of a run that has ended, "
                         "finished or stopped")
    return load_trace(path)
