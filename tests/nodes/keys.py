"""Names and shapes of the Wan2.1 layout."""


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
