"""FlowCache core: autoregressive video diffusion, chunk by chunk, with step reuse and a bounded KV cache.

Never imports ComfyUI. See README.md for the tour and CONTRIBUTING.md for the recipes.
"""

__version__ = "0.1.0"
