"""What a run is, as named facts that can be compared: two runs with equal facts make the same bits.

A fact is a short text; long ones are cut and end in a fingerprint.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

LONG = 80
UNSEEN = ("kv_device",)   # settings that no bit depends on
Facts = dict[str, str]


def facts_of(value: Any, name: str) -> Facts:
    """The facts of a value: a dataclass gives its kind and those of its fields, anything else one. Raises TypeError."""
    if not is_dataclass(value):
        return {name: _short(said(value))}
    found = {name: _kind(value)}
    for f in fields(value):
        if f.name not in UNSEEN:
            found.update(facts_of(getattr(value, f.name), f"{name}.{f.name}"))
    return found


def _kind(value: Any) -> str:
    return getattr(value, "name", "") if isinstance(getattr(value, "name", None), str) else type(value).__name__


def said(value: Any) -> str:
    """A text that is equal for equal values only. Raises TypeError for a value that is none of data."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return str(value)
    if is_dataclass(value):
        return f"{_kind(value)}({', '.join(f'{f.name}={said(getattr(value, f.name))}' for f in fields(value))})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(f"{said(key)}: {said(part)}" for key, part in value.items())) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(said, value))) + "}"
    if isinstance(value, Sequence):
        return "(" + ", ".join(map(said, value)) + ")"
    raise TypeError(f"a {type(value).__name__} in the settings of a run: it cannot be compared on a resume")


def _short(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG // 2]}… #{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def weights_fact(module: nn.Module) -> str:
    """A fingerprint of names, shapes and every number of a module's weights, the same on every device."""
    digest, views = hashlib.sha256(), {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, tensor in sorted(module.state_dict().items()):
        whole = tensor.detach().contiguous().flatten().view(views[tensor.element_size()]).sum(dtype=torch.int64)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {int(whole)}\n".encode())
    return digest.hexdigest()[:16]


def difference(before: Facts, now: Facts, most: int = 3) -> str:
    """The first differences in words; "" where there is none."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    nothing = "not there"
    told = [f"{name} is {now.get(name, nothing)}, it was {before.get(name, nothing)}" for name in names[:most]]
    return "; ".join(told + [f"and {len(names) - most} more"] * (len(names) > most))


def run_facts(plan: Any, settings: Any, prompts: Sequence[str], model: str) -> Facts:
    """What decides every bit of a run. prompts: one a chunk; model: a fingerprint of the weights."""
    return {"model": model, **facts_of(settings, "settings"), **facts_of(plan, "plan"),
            **{f"prompt of chunk {c}": _short(prompt) for c, prompt in enumerate(prompts)}}
