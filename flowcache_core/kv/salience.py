"""PaFu-KV's salience head (arXiv 2601.21896): from what a token is, how much later chunks will look at it.

A small network on the hidden state of a token, trained towards the attention of a bidirectional teacher
(demo/train_salience.py). It looks at no query, so a token is rated once, when its keys are written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .budget import KVShape

NAMES = ("norm.weight", "norm.bias", "inner.weight", "inner.bias", "outer.weight", "outer.bias")
NUMBERS = ("layers", "heads", "head_dim", "tap")


@dataclass(frozen=True)
class SalienceHead:
    """weights: tensors by the names in `NAMES`. layers, heads, head_dim: of the network that it was trained on; tap:
    the block after which it reads the hidden state."""

    weights: Mapping[str, Tensor]
    layers: int
    heads: int
    head_dim: int
    tap: int

    @property
    def width(self) -> int:
        return self.weights["norm.weight"].shape[0]

    @property
    def groups(self) -> int:
        """Groups of consecutive layers, each with a score of its own."""
        return self.weights["outer.weight"].shape[0]

    def group_of(self, layer: int) -> int:
        return layer * self.groups // self.layers

    def __call__(self, hidden: Tensor) -> Tensor:
        """`(..., D) -> (..., groups)`, fp32; higher is looked at more. Raises ValueError for another width."""
        if hidden.shape[-1] != self.width:
            raise ValueError(f"a salience head for hidden states of {self.width} numbers, on one of "
                             f"{hidden.shape[-1]}: train one for this network with train-salience")
        w = {name: tensor.to(hidden.device) for name, tensor in self.weights.items()}
        x = F.layer_norm(hidden.float(), (self.width,), w["norm.weight"], w["norm.bias"])
        x = F.gelu(F.linear(x, w["inner.weight"], w["inner.bias"]))
        return F.linear(x, w["outer.weight"], w["outer.bias"])

    def check(self, shape: KVShape) -> None:
        """Raises ValueError where it was trained for another network."""
        own, given = ((x.layers, x.heads, x.head_dim) for x in (self, shape))
        if own != given:
            described = ["{} layers of {} heads of {}".format(*sizes) for sizes in (own, given)]
            raise ValueError(f"a salience head for {described[0]}, on a network of {described[1]}: train one for this "
                             "network with train-salience")

    def save(self, path: Path, **notes: str) -> None:
        """Writes one .safetensors file; notes: what else its metadata is to say."""
        numbers = {name: str(getattr(self, name)) for name in NUMBERS}
        partial = path.with_name(path.name + ".partial")
        save_file({name: tensor.detach().float().contiguous() for name, tensor in self.weights.items()}, partial,
                  {"kind": "salience_head", **numbers, **notes})
        partial.replace(path)


def fresh_weights(width: int, groups: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Weights before training: LayerNorm, `width -> width / 8`, GELU, `-> groups`."""
    generator = torch.Generator().manual_seed(seed)
    inner = max(4, width // 8)
    return {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width),
            "inner.weight": torch.randn(inner, width, generator=generator) / width**0.5,
            "inner.bias": torch.zeros(inner),
            "outer.weight": torch.randn(groups, inner, generator=generator) / inner**0.5,
            "outer.bias": torch.zeros(groups)}


def load_head(path: str | Path) -> SalienceHead:
    """Reads a file that `save` wrote. Raises ValueError where it is none."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no salience head there; train one with train-salience, or give the path of one")
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in NAMES}
        return SalienceHead(weights, **{name: int(notes[name]) for name in NUMBERS})
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a salience head ({error}); train one with train-salience") from error
