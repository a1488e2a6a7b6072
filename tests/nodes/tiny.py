"""A small Wan on the host, and sampling with it."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DIM, FFN, LAYERS, TEXT = 256, 512, 2, 6
SHAPE = (1, 16, 6, 8, 12)   # latent


def shapes(dim: int, layers: int, ffn: int) -> dict[str, tuple[int, ...]]:
    def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    found = {"patch_embedding.weight": (dim, 16, 1, 2, 2), "patch_embedding.bias": (dim,),
             **linear("text_embedding.0", dim, 4096), **linear("text_embedding.2", dim, dim),
             **linear("time_embedding.0", dim, 256), **linear("time_embedding.2", dim, dim),
             **linear("time_projection.1", 6 * dim, dim), **linear("head.head", 64, dim),
             "head.modulation": (1, 2, dim)}
    for i in range(layers):
        block = f"blocks.{i}"
        for kind in ("self_attn", "cross_attn"):
            for part in "qkvo":
                found |= linear(f"{block}.{kind}.{part}", dim, dim)
            found |= {f"{block}.{kind}.norm_q.weight": (dim,), f"{block}.{kind}.norm_k.weight": (dim,)}
        found |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,), f"{block}.modulation": (1, 6, dim)}
        found |= {**linear(f"{block}.ffn.0", ffn, dim), **linear(f"{block}.ffn.2", dim, ffn)}
    return found


def weights(seed: int = 0, dim: int = DIM, layers: int = LAYERS, ffn: int = FFN) -> dict[str, Tensor]:
    """A state dict of the Wan2.1 layout."""
    generator = torch.Generator().manual_seed(seed)
    return {name: (1 + 0.05 * torch.randn(shape, generator=generator)) if "norm" in name and name.endswith("weight")
            else 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes(dim, layers, ffn).items()}


def load(seed: int = 0, metadata: dict | None = None, options: dict | None = None, **sizes: int) -> Any:
    """A ModelPatcher; fp32 unless options say otherwise."""
    import comfy.sd

    options = {"dtype": torch.float32} if options is None else options
    more = {"metadata": metadata} if metadata else {}
    return comfy.sd.load_diffusion_model_state_dict(weights(seed, **sizes), model_options=options, **more)


def text(seed: int, rows: int = TEXT) -> list:
    """A conditioning as nodes hand it on."""
    return [[torch.randn(1, rows, 4096, generator=torch.Generator().manual_seed(100 + seed)), {}]]


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(model: Any, sampler: Any, sigmas: Tensor, cfg: float = 1.0, shape: tuple[int, ...] = SHAPE, seed: int = 7,
           callback: Any = None, guider: Any = None, positive: list | None = None) -> Tensor:
    """Samples as SamplerCustomAdvanced does, in inference mode as the host's executor sets it."""
    import comfy.samplers

    guider = guider or comfy.samplers.CFGGuider(model)
    guider.set_conds(positive or text(1), text(2))
    guider.set_cfg(cfg)
    with torch.inference_mode():
        return guider.sample(noise(shape, seed), torch.zeros(shape), sampler, sigmas, callback=callback,
                             disable_pbar=True, seed=seed)


def ksampler(name: str = "euler") -> Any:
    import comfy.samplers

    return comfy.samplers.sampler_object(name)


def sigmas(steps: int = 4) -> Tensor:
    levels = torch.linspace(1, 0, steps + 1)
    return 5 * levels / (1 + 4 * levels)


def bridge(pack: ModuleType, name: str) -> ModuleType:
    """A module of the pack's bridge."""
    import importlib

    return importlib.import_module(f"{pack.__name__}.nodes.bridge.{name}")


def core(pack: ModuleType, name: str) -> ModuleType:
    """A module of the core as the pack loaded it."""
    import importlib

    return importlib.import_module(f"{pack.__name__}.flowcache_core.{name}")
