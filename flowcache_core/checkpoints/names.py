"""Tensor names: what wrappers put in front of them, and the names that diffusers gives the same tensors."""

import re
from collections.abc import Mapping

from .stored import CheckpointError, Stored

WRAPPERS = frozenset({"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "module"})
PREFIXES = ("model.diffusion_model.", "base_model.model.", "diffusion_model.", "model.", "transformer.")
DIFFUSERS_MARK = "condition_embedder.time_embedder.linear_1.weight"

# (diffusers, Wan2.1), tried in order; `norm2` and `norm3` change places.
DIFFUSERS = tuple((re.compile(pattern), name) for pattern, name in (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.image_embedder\.", "img_emb."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"^fps_projection\.net\.0\.proj\.", "fps_projection.0."),
    (r"^fps_projection\.net\.2\.", "fps_projection.2."),
    (r"^(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
    (r"^(blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"^(blocks\.\d+)\.ffn\.net\.0\.proj\.", r"\1.ffn.0."),
    (r"^(blocks\.\d+)\.ffn\.net\.2\.", r"\1.ffn.2."),
    (r"^(blocks\.\d+)\.attn1\.", r"\1.self_attn."),
    (r"^(blocks\.\d+)\.attn2\.", r"\1.cross_attn."),
))
PROJECTIONS = tuple((re.compile(pattern), name) for pattern, name in (
    (r"\.to_([qkv])\.", r".\1."), (r"\.to_out\.0\.", ".o."), (r"\.add_([kv])_proj\.", r".\1_img."),
    (r"\.norm_added_k\.", ".norm_k_img.")))


def unwrapped(name: str) -> str:
    """Without the components that FSDP, checkpointing, compilation and data parallelism add, and without prefixes."""
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name[len(prefix):]
    return name


def from_diffusers(name: str) -> str:
    """The Wan2.1 name of a diffusers tensor."""
    for pattern, replacement in DIFFUSERS:
        name, found = pattern.subn(replacement, name)
        if found:
            break
    for pattern, replacement in PROJECTIONS:
        name = pattern.sub(replacement, name)
    return name


def plain_names(found: Mapping[str, Stored], where: str) -> tuple[dict[str, Stored], bool]:
    """The tensors under the names that the networks here give them, and whether they had diffusers names. Raises
    CheckpointError where two tensors end up under one name."""
    own = [name for name in found if name.startswith("model.diffusion_model.")]
    names = own or list(found)   # beside them such files hold a codec and a text encoder
    plain = {name: unwrapped(name) for name in names}
    diffusers = DIFFUSERS_MARK in plain.values()
    renamed: dict[str, Stored] = {}
    for name, short in plain.items():
        short = from_diffusers(short) if diffusers else short
        if short in renamed:
            raise CheckpointError(f"{where}: {name} is there twice, once with and once without a prefix; export the "
                                  "weights of one network")
        renamed[short] = found[name]
    return renamed, diffusers
