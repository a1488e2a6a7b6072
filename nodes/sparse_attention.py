"""FlowCache Sparse Attention."""

from typing import Any

from comfy_api.latest import io

from ..flowcache_core.attention import SPARSE, SparseAttention
from .bridge.outer import attach
from .choices import parsed
from .declare import given, schema

DENSE = "dense"


def methods_of(kind: str) -> list[str]:
    """The registered methods for self- or cross-attention."""
    return [name for name in SPARSE.names() if SPARSE[name].kind == kind]


def sparse(chosen: dict[str, str], dense_steps: float, dense_blocks: float) -> SparseAttention | None:
    """chosen: settings as text, by method. None where nothing is sparse. Raises ValueError."""
    idle = next((text for name, text in chosen.items() if name == DENSE and text.strip()), None)
    if idle is not None:
        raise ValueError(f"settings {idle!r} for an attention that is dense: choose a method, or leave them empty")
    made = tuple(SPARSE.make(name, parsed(text, SPARSE, name)) for name, text in chosen.items() if name != DENSE)
    return SparseAttention(made, dense_steps, dense_blocks) if made else None


class FlowCacheSparseAttention(io.ComfyNode):
    """Which keys a query looks at."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_SparseAttention", "FlowCache Sparse Attention",
            description="Lets queries look only at the cached keys and prompt words that matter to them. Pays where "
                        "many chunks are remembered, at high resolution. For the Chunked AR Sampler.",
            search_aliases=["annsa", "annca", "block sparse", "radial attention", "speed", "flowcache"],
            inputs=[
                given(io.Model.Input, "model", tooltip="A model with an AR profile."),
                given(io.Combo.Input, "self_attention", options=[DENSE, *methods_of("self")], default="annsa",
                      tooltip="How keys of the past are chosen; dense looks at all."),
                given(io.Combo.Input, "cross_attention", options=[DENSE, *methods_of("cross")], default=DENSE,
                      tooltip="How words of the prompt are chosen; dense looks at all."),
                given(io.Float.Input, "dense_steps", default=0.3, min=0.0, max=1.0, step=0.05,
                      tooltip="Share of a chunk's steps, from the first, that stay dense. Up is closer to the dense "
                              "video, down is faster."),
                given(io.Float.Input, "dense_blocks", default=0.3, min=0.0, max=1.0, step=0.05,
                      tooltip="Share of the network's blocks that stay dense, half of them first and half last."),
                given(io.String.Input, "self_settings", default="", advanced=True,
                      tooltip="Settings of the self-attention method, as in 'keep=0.8, codes=quant'."),
                given(io.String.Input, "cross_settings", default="", advanced=True,
                      tooltip="Settings of the cross-attention method, as in 'share=0.5'."),
            ],
            outputs=[io.Model.Output(display_name="MODEL")])

    @classmethod
    def execute(cls, model: Any, self_attention: str, cross_attention: str, dense_steps: float, dense_blocks: float,
                self_settings: str, cross_settings: str) -> io.NodeOutput:
        pairs = ((self_attention, self_settings), (cross_attention, cross_settings))
        made = sparse({name: text for name, text in pairs if name != DENSE or text.strip()}, dense_steps, dense_blocks)
        return io.NodeOutput(attach(model, sparse=made))
