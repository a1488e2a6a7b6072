"""LoRA files in PEFT's form: which matrices belong to which weight, and how they are merged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .checkpoint import Checkpoint, open_checkpoint
from .names import from_diffusers
from .stored import CheckpointError, Stored

ENDS = ((".lora_A.weight", ".lora_B.weight"), (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora_down.weight", ".lora_up.weight"))


@dataclass(frozen=True)
class LoraPair:
    """key: of the weight `[out, in]` that it changes by `alpha / rank * b @ a`; a `[rank, in]`, b `[out, rank]`."""

    key: str
    a: Stored
    b: Stored
    alpha: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def delta(self) -> Tensor:
        """`[out, in]`, fp32."""
        return self.b.read().float() @ self.a.read().float() * (self.alpha / self.rank)


@dataclass(frozen=True)
class LoraSummary:
    family: str
    text: str


def looks_like_lora(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return any(name.endswith(end) for name in shapes for pair in ENDS for end in pair)


def lora_pairs(checkpoint: Checkpoint) -> Iterator[LoraPair]:
    """(key, a, b, alpha) of every weight that the file changes; without an alpha of its own, alpha is the rank.
    Raises CheckpointError where a matrix stands alone or does not fit its partner."""
    tensors, used = checkpoint.tensors, set()
    for name in sorted(tensors):
        ends = next((pair for pair in ENDS if name.endswith(pair[0])), None)
        if ends is None:
            continue
        base = name.removesuffix(ends[0])
        a, b, alpha = tensors[name], tensors.get(base + ends[1]), tensors.get(f"{base}.alpha")
        if b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise CheckpointError(f"{checkpoint.path}: {name} {a.shape} " + ("has no partner" if b is None else
                                  f"does not fit {b.shape}") + "; download the LoRA again")
        used |= {name, base + ends[1], f"{base}.alpha"}
        yield LoraPair(from_diffusers(f"{base}.weight"), a, b, float(alpha.read()) if alpha else float(a.shape[0]))
    left = sorted(set(tensors) - used)
    if left or not used:
        raise CheckpointError(f"{checkpoint.path}: " + (f"{left[0]} is no part of a LoRA in PEFT's form" if left else
                              "no LoRA matrices in it") + "; give a file with lora_A and lora_B of every layer")


def open_lora(path: Path | str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LoraPair]:
    """The pairs of a file by the weight they change, checked against a model's shapes. Raises CheckpointError."""
    pairs = {pair.key: pair for pair in lora_pairs(open_checkpoint(path, prefer="raw"))}
    for key, pair in pairs.items():
        if shapes.get(key) != (pair.b.shape[0], pair.a.shape[1]):
            raise CheckpointError(f"{path}: the LoRA changes {key} by ({pair.b.shape[0]}, {pair.a.shape[1]}), the "
                                  f"model has {shapes.get(key, 'no such weight')}; give the base that it belongs to")
    return pairs


def merged(weight: Tensor, pair: LoraPair | None, strength: float = 1.0) -> Tensor:
    """The weight with a LoRA folded in, in its own dtype; computed in fp32. A new tensor where there is a pair."""
    return weight if pair is None else (weight.float() + strength * pair.delta()).to(weight.dtype)


def lora_summary(checkpoint: Checkpoint) -> LoraSummary:
    pairs = list(lora_pairs(checkpoint))
    wan = any(pair.key.startswith("blocks.0.self_attn.") for pair in pairs)
    ranks = sorted({pair.rank for pair in pairs})
    text = f"LoRA of {len(pairs)} layers, rank {', '.join(map(str, ranks))}"
    causal = "generator_lora" in checkpoint.sets or "longlive" in str(checkpoint.path).lower()
    family = ("wan-causal" if causal else "wan") if wan else "unknown"
    return LoraSummary(family, text)
