"""Options of sparse attention."""

import argparse

from ..attention import SPARSE, SparseAttention
from .request import parse_settings


def add_sparse_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sparse attention")
    group.add_argument("--sparse", action="append", default=[], metavar="METHOD",
                       help=f"look at fewer keys: {' or '.join(SPARSE.names())}, or both by giving it twice")
    group.add_argument("--sparse-set", dest="sparse_settings", action="append", default=[],
                       metavar="[METHOD.]NAME=VALUE",
                       help="a setting of a method, as annsa.keep=0.8")
    group.add_argument("--sparse-dense-steps", type=float, default=0.3, metavar="SHARE",
                       help="first steps of a chunk that stay dense (default 0.3)")
    group.add_argument("--sparse-dense-blocks", type=float, default=0.3, metavar="SHARE",
                       help="blocks of the network that stay dense, half of them first and half last (default 0.3)")


def build_sparse(args: argparse.Namespace) -> SparseAttention | None:
    """Raises ValueError for methods and settings that are none."""
    if not args.sparse:
        if args.sparse_settings:
            raise ValueError(f"--sparse-set {args.sparse_settings[0]}: a setting of a method; give --sparse too")
        return None
    given: dict[str, list[str]] = {name: [] for name in args.sparse}
    for name in given:
        _ = SPARSE[name]   # an unknown one lists the known ones
    for pair in args.sparse_settings:
        method, dot, setting = pair.partition("=")[0].rpartition(".")
        if not dot and len(given) > 1 or dot and method not in given:
            raise ValueError(f"--sparse-set {pair}: say of which method, {' or '.join(given)}, as "
                             f"{next(iter(given))}.{setting}=VALUE")
        given[method or args.sparse[0]].append(pair.removeprefix(f"{method}."))
    methods = tuple(SPARSE.make(name, parse_settings(pairs, SPARSE, name)) for name, pairs in given.items())
    return SparseAttention(methods, args.sparse_dense_steps, args.sparse_dense_blocks)
