"""From command-line words to the values that a request is made of."""

from collections.abc import Sequence
from dataclasses import replace

from ..profiles import Preset, Profile, load_preset
from ..registry import Registry
from ..reuse import POLICIES, PREDICTORS, Predictor


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


def choose_reuse(profile: Profile, preset: str | None, policy: str | None, threshold: str | None,
                 pairs: Sequence[str], predictor: str | None) -> Preset:
    """A preset, or a policy with its settings; `threshold` and `pairs` need a policy that has them."""
    if policy is None and (threshold is not None or pairs):
        policy = "flowcache"
    if policy is None:
        chosen = load_preset(profile, preset or "off")
        return replace(chosen, predictor=parse_predictor(predictor)) if predictor else chosen
    if preset is not None:
        raise ValueError(f"preset {preset!r} together with policy {policy!r}: give one of the two")
    if threshold is not None:
        pairs = [*pairs, f"threshold={threshold}"]
    settings = parse_settings(pairs, POLICIES, policy)
    return Preset("", POLICIES.make(policy, settings), parse_predictor(predictor or "velocity"), {})
