"""From widgets to a policy, a budget, and how the past is folded."""

import logging
from typing import Any

from ..flowcache_core.kv import MERGERS, SCORERS, Compression, KVBudget
from ..flowcache_core.profiles import Preset, Profile, load_preset
from ..flowcache_core.registry import Registry
from ..flowcache_core.reuse import POLICIES, PREDICTORS, Predictor, ReusePolicy

logger = logging.getLogger(__name__)

AUTO, FROM_PRESET, OLDEST_LEAVE, NO_MERGER = "auto", "from preset", "oldest leave", "none"
PRESETS = (AUTO, "off", "quality", "balanced", "fast")
NOTHING_TO_SKIP = ("{title} takes {steps} steps a chunk, which leaves next to nothing to skip; only the KV budget "
                   "makes it faster")


def json_path(widget: str, file: str, maker: str) -> str:
    """A path that may be empty. Raises ValueError for another kind of file than the command `maker` writes."""
    file = file.strip()
    if file and not file.endswith(".json"):
        raise ValueError(f"{widget} {file!r}: expected the path of a .json file, as the command {maker}")
    return file


def preset_named(preset: str, file: str, policy: str) -> str:
    """The preset, or the file that stands in its place. Raises ValueError where that does not count, or is none."""
    file = json_path("preset_file", file, "'tune' writes it")
    if file and policy != FROM_PRESET:
        raise ValueError(f"preset_file {file!r} with policy {policy}: it counts where policy is '{FROM_PRESET}'; set "
                         "that, or leave it empty")
    return file or preset


def chosen_preset(profile: Profile, name: str) -> Preset:
    """auto is `balanced`."""
    preset = load_preset(profile, "balanced" if name == AUTO else name)
    if preset.note:
        logger.info("FlowCache: preset %s: %s", preset.name, preset.note)
    return preset


def parsed(text: str, registry: Registry, name: str) -> dict[str, Any]:
    """`name=value, name=value` in the types of the settings' defaults. Raises ValueError."""
    known = {f.name: f.default for f in registry[name].__dataclass_fields__.values()}
    settings: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.replace(";", "\n").splitlines() for part in part.split(","))
                       if text.strip() else ()):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise ValueError(f"setting {pair!r}: expected NAME=VALUE, one a line or between commas")
        settings[key] = _typed(key, value, known.get(key))
    return settings


def _typed(key: str, value: str, default: Any) -> Any:
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"setting {key} {value!r}: expected true or false")
        return value.lower() == "true"
    if isinstance(default, (int, float)):
        try:
            return int(value) if isinstance(default, int) else float(value)
        except ValueError:
            raise ValueError(f"setting {key} {value!r}: expected a number") from None
    return value


def reuse(profile: Profile, policy: str, preset: str, widgets: dict[str, Any], more: str,
          predictor: str) -> tuple[ReusePolicy, Predictor]:
    """A preset's policy, or a named one, with the widgets that somebody has set (None: not set). Raises ValueError for
    a setting that the policy does not have."""
    base = chosen_preset(profile, preset) if policy == FROM_PRESET else None
    name = base.policy.name if base else policy
    changes = {**{key: value for key, value in widgets.items() if value is not None}, **parsed(more, POLICIES, name)}
    if name == "off" and changes and base:
        raise ValueError(f"{', '.join(changes)} with preset {base.name} of {profile.title}, which skips nothing: "
                         "choose a policy, or leave these as they are")
    made = POLICIES.make(name, {**(base.policy.settings() if base else {}), **changes}) if changes or not base \
        else base.policy
    if made.name != "off" and profile.few_steps:
        logger.warning("FlowCache: %s", NOTHING_TO_SKIP.format(title=profile.title, steps=profile.steps))
    stand_in = base.predictor if base and predictor == FROM_PRESET else PREDICTORS.make(
        "velocity" if predictor == FROM_PRESET else predictor)
    return made, stand_in


def memory(amount: float, unit: str, method: str, granularity: str, merger: str, more: str, sink: int,
           recent: int) -> tuple[KVBudget, Compression | None]:
    """Raises ValueError where a method has nothing to do, or settings that it does not know."""
    budget = KVBudget(amount or None, unit, sink, recent)
    if method == OLDEST_LEAVE:
        if more.strip() or merger != NO_MERGER:
            raise ValueError(f"settings or a merger with method '{OLDEST_LEAVE}', which scores nothing: choose a "
                             "method that does")
        return budget, None
    if not amount:
        raise ValueError(f"method {method} without a budget: nothing would be folded; set an amount")
    joins = None if merger == NO_MERGER else MERGERS.make(merger)
    return budget, Compression(SCORERS.make(method, parsed(more, SCORERS, method)), granularity, merger=joins)
