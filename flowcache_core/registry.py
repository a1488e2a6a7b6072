"""Named answers to one question: a registry, and the discovery of a folder of answers."""

import importlib
import numbers
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import field, fields
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name. `what` names the kind in messages."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator; sets `name` on the class. A name that is taken raises."""

        def add(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self.what} {name!r} is registered twice")
            self._classes[name] = cls
            cls.name = name
            return cls

        return add

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            raise ValueError(f"unknown {self.what} {name!r}: choose one of {', '.join(self.names())}")
        return self._classes[name]

    def names(self) -> list[str]:
        return sorted(self._classes)

    def make(self, name: str, settings: dict[str, Any] | None = None) -> T:
        """An instance of the class `name`; an unknown setting is named together with the known ones."""
        cls, settings = self[name], dict(settings or {})
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"{self.what} {name!r} has no setting {', '.join(unknown)}: it has "
                             f"{', '.join(known) or 'none'}")
        return cls(**settings)


def knob(default: Any, low: float | None, high: float | None, doc: str) -> Any:
    """A dataclass field with its range and its prose: the one source for checks, widgets, help and tables."""
    return field(default=default, metadata={"low": low, "high": high, "doc": doc})


def check_knobs(config: Any) -> None:
    """Raises ValueError for the first numeric field outside its range."""
    for f in fields(config):
        value, low, high = getattr(config, f.name), f.metadata.get("low"), f.metadata.get("high")
        if f.type is bool and not isinstance(value, bool):
            raise ValueError(f"{f.name} {value!r}: expected true or false ({f.metadata['doc']})")
        kind = {int: numbers.Integral, float: numbers.Real}.get(f.type)
        if kind and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{f.name} {value!r}: expected a {'whole ' * (f.type is int)}number ({f.metadata['doc']})")
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if value != value or low is not None and value < low or high is not None and value > high:
            raise ValueError(f"{f.name} {value}: expected {low} to {'any' if high is None else high} "
                             f"({f.metadata['doc']})")


def discover(package: str, path: Iterable[str]) -> None:
    """Imports every module of a folder of answers, in order; names that begin with `_` are left out."""
    for module in sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")):
        importlib.import_module(f"{package}.{module}")
