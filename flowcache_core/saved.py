"""What a run state may hold, and its form on disk: a JSON tree with numbered tensors. Never pickle.

A type whose values a run remembers (the state of a policy, what a predictor keeps) is a frozen dataclass, NamedTuple or
Enum under `@saved`; only those are ever made from a file.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar

from torch import Tensor

SAVED: dict[str, type] = {}
T = TypeVar("T", bound=type)

TENSOR, FLOAT, TUPLE, DICT, SET = "tensor", "float", "tuple", "dict", "set"   # keys of the tree; types begin with "@"


def saved(cls: T) -> T:
    """Class decorator: values of this class may stand in a run state, under the name of the class."""
    if SAVED.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f"two classes {cls.__name__!r} are to be saved: rename one")
    return cls


def pack(value: Any, tensors: list[Tensor]) -> Any:
    """`value` as JSON can hold it; its tensors are appended to `tensors`, each once. Raises TypeError."""
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {FLOAT: repr(value)}
    if isinstance(value, Tensor):
        known = next((n for n, t in enumerate(tensors) if t is value), len(tensors))
        if known == len(tensors):
            tensors.append(value)
        return {TENSOR: known}
    members = _members(value)
    if members is not None:
        return {f"@{type(value).__name__}": {name: pack(part, tensors) for name, part in members.items()}}
    return _pack_container(value, tensors)


def _pack_container(value: Any, tensors: list[Tensor]) -> Any:
    if type(value) is list:
        return [pack(part, tensors) for part in value]
    if type(value) is tuple:
        return {TUPLE: [pack(part, tensors) for part in value]}
    if type(value) is dict:
        return {DICT: [[pack(key, tensors), pack(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (set, frozenset)):
        return {SET: [pack(part, tensors) for part in sorted(value)]}
    raise TypeError(f"a {type(value).__name__} cannot stand in a run state: use numbers, strings, tensors, tuples, "
                    "dicts and frozen dataclasses under @saved (flowcache_core/saved.py)")


def _members(value: Any) -> dict[str, Any] | None:
    """The members of a value of a registered type; None for other types."""
    if SAVED.get(type(value).__name__) is not type(value):
        return None
    if isinstance(value, Enum):
        return {"value": value.value}
    return value._asdict() if hasattr(value, "_asdict") else {f.name: getattr(value, f.name) for f in fields(value)}


def unpack(tree: Any, tensors: Sequence[Tensor]) -> Any:
    """The value that `pack` was given. Raises ValueError for a tree that it cannot have made."""
    if tree is None or isinstance(tree, (bool, str, int, float)):
        return tree
    if isinstance(tree, list):
        return [unpack(part, tensors) for part in tree]
    if not isinstance(tree, dict) or len(tree) != 1:
        raise ValueError("not a run state of this version")
    ((key, inner),) = tree.items()
    if key.startswith("@"):
        return _made(key[1:], inner, tensors)
    read: dict[str, Callable[[Any], Any]] = {
        TENSOR: lambda n: tensors[n], FLOAT: float, TUPLE: lambda v: tuple(unpack(part, tensors) for part in v),
        DICT: lambda v: {unpack(k, tensors): unpack(part, tensors) for k, part in v},
        SET: lambda v: frozenset(unpack(part, tensors) for part in v)}
    if key not in read:
        raise ValueError(f"not a run state of this version (it has a {key!r})")
    return read[key](inner)


def _made(name: str, members: dict[str, Any], tensors: Sequence[Tensor]) -> Any:
    if name not in SAVED:
        raise ValueError(f"it holds a {name!r}, which this version does not know")
    cls, values = SAVED[name], {key: unpack(part, tensors) for key, part in members.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"its {name!r} is of another version ({error})") from error
