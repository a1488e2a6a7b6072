"""The example workflows, described once: both the canvas form and the API form are made from these descriptions.

A node is `(class, inputs)`; an input that is a pair `(node, slot)` is a link. What is left out has its default.
"""

from typing import Any

Graph = dict[str, tuple[str, dict[str, Any]]]
SQUARE, CROSS = "a yellow square moving right slowly", "a white cross moving down quickly in the first lane"


def loader(demo: bool, file: str = "", profile: str = "auto", text: str = "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
           ) -> Graph:
    if demo:
        return {"load": ("FlowCache_LoadARVideoModel", {"file": "demo (bundled)"})}
    return {"load": ("FlowCache_LoadARVideoModel", {"file": file, "profile": profile}),
            "clip": ("CLIPLoader", {"clip_name": text, "type": "wan"}),
            "vae": ("VAELoader", {"vae_name": "wan_2.1_vae.safetensors"})}


def prompts(positive: str, negative: str, clip: tuple[str, int]) -> Graph:
    return {"positive": ("CLIPTextEncode", {"text": positive, "clip": clip}),
            "negative": ("CLIPTextEncode", {"text": negative, "clip": clip})}


def sampler(model: str, vae: tuple[str, int], name: str = "sample", **inputs: Any) -> Graph:
    return {name: ("FlowCache_ChunkedARSampler", {
        "model": (model, 0), "positive": ("positive", 0), "negative": ("negative", 0), "vae": vae, **inputs})}


def saved(source: str, fps: float, prefix: str, name: str = "") -> Graph:
    return {f"video{name}": ("CreateVideo", {"images": (source, 2), "fps": fps}),
            f"save{name}": ("SaveVideo", {"video": (f"video{name}", 0), "filename_prefix": f"video/{prefix}"})}


def demo(prompt: str, made: Graph, output: Graph) -> Graph:
    return {**loader(True), **prompts(prompt, "", ("load", 1)), **made, **output}


def real(file: str, profile: str, negative: str, middle: Graph, last: str, fps: float, prefix: str,
         **inputs: Any) -> Graph:
    return {**loader(False, file, profile),
            **prompts("a sailing boat leaves the harbour at dawn", negative, ("clip", 0)), **middle,
            **sampler(last, ("vae", 0), **inputs), **saved("sample", fps, prefix)}


VAE = ("load", 2)
GRAPHS: dict[str, Graph] = {
    "1_first_video": demo(SQUARE, {
        "flowcache": ("FlowCache_Apply", {"model": ("load", 0), "preset": "balanced"}),
        **sampler("flowcache", VAE, length=93, seed=1)}, saved("sample", 16.0, "flowcache_first")),
    "2_uncached_and_accelerated": demo(SQUARE, {
        "flowcache": ("FlowCache_Apply", {"model": ("load", 0), "preset": "fast"}),
        **sampler("load", VAE, "uncached", length=93, seed=1),
        **sampler("flowcache", VAE, "accelerated", length=93, seed=1)}, {
        **saved("uncached", 16.0, "flowcache_uncached", "_uncached"),
        **saved("accelerated", 16.0, "flowcache_accelerated", "_accelerated")}),
    "3_long_video_in_bounded_memory": demo(SQUARE, {
        "policy": ("FlowCache_Policy", {"model": ("load", 0)}),
        "budget": ("FlowCache_KVBudget", {"model": ("policy", 0), "amount": 6.0, "unit": "chunks", "sink_chunks": 1}),
        **sampler("budget", VAE, length=285, seed=1, out_folder="flowcache_long")},
        saved("sample", 16.0, "flowcache_long")),
    "4_prompt_per_chunk": demo(SQUARE, {
        "flowcache": ("FlowCache_Apply", {"model": ("load", 0), "preset": "balanced"}),
        **sampler("flowcache", VAE, length=93, seed=1, clip=("load", 1), prompts=f"0: {SQUARE}; 4: {CROSS}")},
        saved("sample", 16.0, "flowcache_prompts")),
    "skyreels_v2_df": real("SkyReels-V2-DF-1.3B-540P.safetensors", "skyreels-v2-df",
        "blurred, static, low quality", {
            "flowcache": ("FlowCache_Apply", {"model": ("load", 0), "preset": "balanced"})}, "flowcache", 24.0,
        "flowcache_skyreels", length=97, width=960, height=544),
    "self_forcing": real("self_forcing_dmd.pt", "self-forcing", "", {
        "budget": ("FlowCache_KVBudget", {"model": ("load", 0), "amount": 8.0, "unit": "chunks", "sink_chunks": 1})},
        "budget", 16.0, "flowcache_self_forcing", length=81, width=832, height=480),
}
