"""Prompts of the bundled world: a small grammar, and a deterministic text codebook in place of a text encoder.

    a COLOUR SHAPE moving DIRECTION [slowly | quickly] [in the first | second | third lane] [and a second one]
    [behind a wall]

Every prompt becomes `ROWS` rows of `WIDTH` numbers, one a slot (colour, shape, direction, speed and lane of two shapes,
and the wall); a row is the sum of the word's and the slot's code. Codes are +-1 patterns drawn from SHAKE-256 of the
word, so they need no weights and are the same everywhere. The empty prompt has the blank code in every slot.
"""

import hashlib
import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .world import COLOURS, DIRECTIONS, LANES, SHAPES, SPEEDS, Mover, Scene

WIDTH = 4096
KINDS = {"colour": COLOURS, "shape": SHAPES, "direction": DIRECTIONS, "speed": SPEEDS, "lane": LANES}
SLOTS = tuple(f"{kind}{number}" for number in (1, 2) for kind in KINDS) + ("wall",)
ROWS = len(SLOTS)
BLANK = "<blank>"
FILLERS = frozenset("a an the and moving moves move behind passing passes in front of lane".split())
FORM = ("a COLOUR SHAPE moving DIRECTION [slowly|quickly] [in the first|second|third lane] [and a second one] "
        "[behind a wall]")


def vocabulary() -> str:
    """The words a prompt may use, as one line."""
    return "; ".join(f"{kind}: {', '.join(words)}" for kind, words in KINDS.items())


def parse(prompt: str) -> Scene:
    """The scene a prompt describes. Raises ValueError naming every unknown word, or what is missing."""
    words = re.findall(r"[^\s,.;]+", prompt.lower())
    kind_of = {word: kind for kind, known in KINDS.items() for word in known}
    unknown = [word for word in words if word not in kind_of and word not in FILLERS and word != "wall"]
    if unknown:
        raise ValueError(f"unknown words in the prompt: {', '.join(unknown)} (known: {vocabulary()}; wall)")
    movers: list[dict[str, str]] = []
    for word in words:
        kind = kind_of.get(word)
        if kind == "colour":
            movers.append({})
        if kind is None:
            continue
        if not movers or kind in movers[-1]:
            raise ValueError(f"prompt {prompt!r}: {word!r} belongs to no shape; write {FORM}")
        movers[-1][kind] = word
    for mover in movers or [{}]:
        missing = [kind for kind in ("colour", "shape", "direction") if kind not in mover]
        if missing:
            raise ValueError(f"prompt {prompt!r}: no {' and no '.join(missing)} for a shape; write {FORM}")
    return Scene(tuple(_with_lanes([Mover(**{"speed": "slowly", **mover}) for mover in movers],
                                   ["lane" in mover for mover in movers])), "wall" in words)


def _with_lanes(movers: list[Mover], given: list[bool]) -> list[Mover]:
    """Movers of which those without a lane of their own have one that no other on their axis has."""
    for n, mover in enumerate(movers):
        if not given[n]:
            taken = {other.lane for m, other in enumerate(movers) if m != n and other.axis == mover.axis
                     and (given[m] or m < n)}
            movers[n] = replace(mover, lane=next(lane for lane in ("second", "third", "first") if lane not in taken))
    return movers


def describe(scene: Scene) -> str:
    """The prompt of a scene; `parse` undoes it."""
    parts = [f"a {m.colour} {m.shape} moving {m.direction} {m.speed} in the {m.lane} lane" for m in scene.movers]
    return " and ".join(parts) + (" behind a wall" if scene.wall else "")


@lru_cache(maxsize=256)
def _code(word: str) -> Tensor:
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(word.encode()).digest(WIDTH // 8), np.uint8))
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1)


def encode_scene(scene: Scene | None) -> Tensor:
    """Rows `(ROWS, WIDTH)` of a scene, unit variance; None is the empty prompt."""
    words = [BLANK] * ROWS
    if scene is not None:
        for number, mover in enumerate(scene.movers):
            words[number * len(KINDS):(number + 1) * len(KINDS)] = [getattr(mover, kind) for kind in KINDS]
        words[-1] = "wall" if scene.wall else BLANK
    return torch.stack([_code(word) + _code(slot) for word, slot in zip(words, SLOTS, strict=True)]) / 2**0.5


class DemoTextEncoder:
    """The bundled `TextEncoder`: prompt -> `(1, ROWS, WIDTH)`; "" is the unconditional prompt."""

    def read(self, prompt: str) -> Scene | None:
        """The scene of a prompt; None for the empty one."""
        return parse(prompt) if prompt.strip() else None

    def encode(self, prompt: str) -> Tensor:
        return encode_scene(self.read(prompt)).unsqueeze(0)
