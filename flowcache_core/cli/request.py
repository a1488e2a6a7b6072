"""From command-line words to settings of registered classes."""

from collections.abc import Sequence

from ..registry import Registry
from ..reuse import PREDICTORS, Predictor


def parse_settings(pairs: Sequence[str], registry: Registry, name: str) -> dict[str, object]:
    """`key=value` words as settings of the registered class `name`, converted to the type of its default."""
    known = {f.name: f.type for f in registry[name].__dataclass_fields__.values()}
    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"setting {pair!r}: expected NAME=VALUE")
        kind = known.get(key, str)
        try:
            settings[key] = _converted(kind, text)
        except ValueError:
            wanted = {int: "a whole number", bool: "true or false"}.get(kind, "a number")
            raise ValueError(f"setting {key} {text!r}: expected {wanted}") from None
    return settings


def _converted(kind: type, text: str) -> object:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return kind(text) if kind in (int, float) else text


def parse_predictor(text: str) -> Predictor:
    """`NAME`, or `NAME:SETTING=VALUE,...`."""
    name, _, settings = text.partition(":")
    pairs = settings.split(",") if settings else []
    return PREDICTORS.make(name, parse_settings(pairs, PREDICTORS, name))
