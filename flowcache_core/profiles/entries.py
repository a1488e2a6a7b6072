"""What a field of a profile may hold, and in what words a value that it may not hold is refused."""

from collections.abc import Mapping
from dataclasses import MISSING, field
from typing import Any


def entry(kind: str, doc: str, default: Any = MISSING, low: float | None = None, high: float | None = None,
          choices: tuple[str, ...] = ()) -> Any:
    """A field of a profile: what it may hold, and its prose. A default of None means that it may be null."""
    return field(default=default, metadata={"kind": kind, "doc": doc, "low": low, "high": high, "choices": choices})


def shown(value: Any) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


def _is_number(value: Any, whole: bool = False) -> bool:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and value == value


def problem_of(value: Any, about: Mapping[str, Any], nullable: bool) -> str:
    """What was expected of a value that is not it; "" for one that is."""
    kind, low, high, choices = (about[key] for key in ("kind", "low", "high", "choices"))
    if value is None and nullable:
        return ""
    span = "" if low is None else f" from {low:g} on" if high is None else f" from {low:g} to {high:g}"

    def inside(number: Any, whole: bool = False) -> bool:
        return _is_number(number, whole) and (low is None or number >= low) and (high is None or number <= high)

    good = {
        "text": lambda: isinstance(value, str), "flag": lambda: isinstance(value, bool),
        "choice": lambda: value in choices,
        "whole": lambda: inside(value, True), "number": lambda: inside(value),
        "numbers": lambda: isinstance(value, tuple) and all(map(inside, value)),
        "texts": lambda: isinstance(value, tuple) and all(isinstance(part, str) for part in value),
        "sides": lambda: isinstance(value, tuple) and len(value) == 2 and all(
            inside(side, True) and side % 2 == 0 for side in value),
        "sources": lambda: value == () or isinstance(value, Mapping) and all(
            isinstance(part, str) for pair in value.items() for part in pair),
    }[kind]()
    wanted = {"text": "text", "flag": "true or false", "choice": f"one of {', '.join(choices)}",
              "whole": f"a whole number{span}", "number": f"a number{span}", "numbers": f"a list of numbers{span}",
              "texts": "a list of texts", "sides": "two even numbers, [height, width]",
              "sources": "an object of texts"}[kind]
    return "" if good else wanted + (" or null" if nullable else "")
