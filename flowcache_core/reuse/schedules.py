"""Learned schedules as data: what is done at every step of a chunk, for one network and one grid of steps.

A schedule is a string, one letter a step: `F` all streams are computed, `C` the first one is and the others are derived
from it, `-` nothing is.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

SCHEMA = "flowcache-schedule/1"
FULL, FIRST, SKIP = "F", "C", "-"
FOLDER = Path(__file__).parent.parent / "profiles" / "schedules"
SAME = 1e-4   # of noise levels and of guidance


@dataclass(frozen=True)
class Schedule:
    """actions: one letter a step; sigmas: noise levels of the steps, one more than steps; streams, guidance, predictor
    and fingerprint: of the run that it was learned from; expected: the error that was predicted for it."""

    actions: str
    sigmas: tuple[float, ...]
    streams: tuple[str, ...]
    guidance: float
    predictor: str
    fingerprint: tuple[float, ...]
    expected: float = 0.0

    def __post_init__(self) -> None:
        if set(self.actions) - {FULL, FIRST, SKIP} or len(self.actions) + 1 != len(self.sigmas):
            raise ValueError(f"schedule {self.actions!r} for {len(self.sigmas) - 1} steps: expected one of {FULL}, "
                             f"{FIRST} and {SKIP} a step")
        if not self.actions.startswith(FULL):
            raise ValueError(f"schedule {self.actions!r}: the first step must be {FULL}: nothing stands in for it")

    @property
    def derives(self) -> bool:
        return FIRST in self.actions

    @property
    def share(self) -> float:
        """The part of all stream steps that is computed."""
        full, first = self.actions.count(FULL), self.actions.count(FIRST)
        return (full + first / len(self.streams)) / len(self.actions)

    def save(self, path: Path, provenance: Mapping[str, Any]) -> None:
        data = {"schema": SCHEMA, "provenance": dict(provenance), "actions": self.actions, "expected": self.expected,
                "sigmas": list(self.sigmas), "streams": list(self.streams), "guidance": self.guidance,
                "predictor": self.predictor, "fingerprint": [float(f"{n:.6g}") for n in self.fingerprint]}
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(data, indent=1) + "\n")
        partial.replace(path)


@cache
def spread(actions: str, steps: int) -> str:
    """A schedule's actions over another number of steps, as dense at every point of a chunk as they were; the first and
    the last step are computed if they were."""
    count, computed, made = len(actions), [action != SKIP for action in actions], ""
    behind = [0, *accumulate(computed)]
    for step in range(steps):
        end = actions[step and -1] if step in (0, steps - 1) else SKIP
        whole, part = divmod((step + 1) * count, steps)
        wanted = behind[whole] + (computed[whole] * part / steps if part else 0)
        due = wanted * steps / count - (step - made.count(SKIP)) >= 0.5
        here = actions[:(2 * step + 1) * count // (2 * steps) + 1].rstrip(SKIP)[-1:] or FULL
        made += end if end != SKIP else here if due else SKIP
    return made


def place_of(name: str) -> Path:
    """A path, or the name of a schedule that comes with a profile."""
    bundled = FOLDER / f"{name}.json"
    return bundled if not name.endswith(".json") and bundled.is_file() else Path(name)


def load_schedule(name: str) -> Schedule:
    """Raises ValueError for what is no schedule."""
    hint = "make one with the command learn"
    try:
        data = json.loads(place_of(name).read_text())
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}, expected {SCHEMA!r}")
        numbers = [float(n) for n in (*data["sigmas"], *data["fingerprint"], data["guidance"], data["expected"])]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a number is not finite")
        return Schedule(str(data["actions"]), tuple(map(float, data["sigmas"])), tuple(map(str, data["streams"])),
                        float(data["guidance"]), str(data["predictor"]), tuple(map(float, data["fingerprint"])),
                        float(data["expected"]))
    except OSError as error:
        raise ValueError(f"schedule {name!r} cannot be read ({error.strerror or error}); {hint}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"schedule {name!r} is none of ours ({error}); {hint}") from error
