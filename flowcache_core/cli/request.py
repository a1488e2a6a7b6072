"""From command-line words to the values that a request is made of."""

from collections.abc import Sequence
from dataclasses import replace

from ..profiles import Preset, Profile, load_preset
from ..registry import Registry
from ..reuse import POLICIES, PREDICTORS


def parse_settings(pairs: Sequence[str], registry: Registry, name: str) -> dict[str, object]:
    """`key=value` words as settings of the registered class `name`, converted to the type of its default."""
    known = {f.name: f.default for f in registry[name].__dataclass_fields__.values()}
    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"setting {pair!r}: expected NAME=VALUE")
        kind = type(known.get(key))
        try:
            settings[key] = kind(text) if kind in (int, float) and key != "threshold" else text
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"setting {key} {text!r}: expected {wanted}") from None
    return settings


def choose_reuse(profile: Profile, preset: str | None, policy: str | None, threshold: str | None,
                 pairs: Sequence[str], predictor: str | None) -> Preset:
    """A preset, or a policy with its settings; `threshold` and `pairs` need a policy that has them."""
    if policy is None and (threshold is not None or pairs):
        policy = "flowcache"
    if policy is None:
        chosen = load_preset(profile, preset or "off")
        return replace(chosen, predictor=PREDICTORS.make(predictor)) if predictor else chosen
    if preset is not None:
        raise ValueError(f"preset {preset!r} together with policy {policy!r}: give one of the two")
    settings = parse_settings(pairs, POLICIES, policy)
    if threshold is not None:
        settings["threshold"] = threshold
    return Preset("", POLICIES.make(policy, settings), PREDICTORS.make(predictor or "velocity"), {})
