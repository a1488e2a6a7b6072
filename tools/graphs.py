"""The workflows of the pack. Files are written from here by `dev.py files`."""

from typing import Any

from .graph import NOTE, Graph, Node

PROMPT = "a red circle moving right quickly"
DEMO = "demo (bundled)"


def note(text: str) -> Node:
    return Node(NOTE, 0, text=text, title="Read me")


def demo(prompt: str = PROMPT, **more: Any) -> dict[str, Node]:
    return {"load": Node("FlowCache_LoadARVideoModel", 0, {"file": DEMO}),
            "yes": Node("CLIPTextEncode", 0, {"clip": ("load", 1), "text": prompt}, "Prompt"),
            "no": Node("CLIPTextEncode", 0, {"clip": ("load", 1), "text": ""}, "Negative prompt (empty)"), **more}


def sampler(column: int, model: str, title: str = "", vae: tuple[str, int] = ("load", 2), **inputs: Any) -> Node:
    return Node("FlowCache_ChunkedARSampler", column, {"model": (model, 0), "positive": ("yes", 0),
                                                      "negative": ("no", 0), "vae": vae, **inputs}, title)


def video(column: int, images: tuple[str, int], prefix: str, fps: float = 16.0, title: str = "") -> dict[str, Node]:
    join = f"join_{prefix}"
    return {join: Node("CreateVideo", column, {"images": images, "fps": fps}),
            f"save_{prefix}": Node("SaveVideo", column, {"video": (join, 0), "filename_prefix": f"flowcache/{prefix}"},
                                   title)}


def report(column: int, source: str) -> Node:
    return Node("FlowCache_Report", column, {"report": (source, 1)})


def real(model: Node, prompt: str, **more: Node) -> dict[str, Node]:
    """Loaders for released weights, as ComfyUI names their files."""
    return {"load": model,
            "clip": Node("CLIPLoader", 0, {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"}),
            "vae": Node("VAELoader", 0, {"vae_name": "wan_2.1_vae.safetensors"}),
            "yes": Node("CLIPTextEncode", 1, {"clip": ("clip", 0), "text": prompt}, "Prompt"),
            "no": Node("CLIPTextEncode", 1, {"clip": ("clip", 0), "text": "blurry, low quality, watermark"},
                       "Negative prompt"), **more}


FIRST = Graph("01_first_video", {
    "note": note("Press Run. The bundled demo model needs no download; it knows coloured shapes that move.\n\n"
                 "Try other prompts: *a blue square moving up slowly*. The preset of **FlowCache** says how much is "
                 "skipped; *off* changes nothing.\n\nFor a real model choose its file in **Load AR Video Model** and "
                 "add ComfyUI's CLIP and VAE loaders, or open the workflows 06, 07 and 09."),
    **demo(), "fast": Node("FlowCache_Apply", 1, {"model": ("load", 0)}),
    "make": sampler(1, "fast", seed=1, length=93), **video(2, ("make", 2), "first"), "tell": report(3, "make")})

COMPARED = Graph("02_uncached_and_accelerated", {
    "note": note("The same video twice, with every step computed and with a policy, and how they differ.\n\nBoth "
                 "samplers have the same seed. The speed-up is measured: run the graph twice, since the first run of a "
                 "process is slower."),
    **demo(), "policy": Node("FlowCache_Policy", 1, {"model": ("load", 0)}),
    "plain": sampler(1, "load", "Uncached", seed=1, length=93), "fast": sampler(2, "policy", "Accelerated", seed=1,
                                                                              length=93),
    "compare": Node("FlowCache_CompareRuns", 3, {"reference": ("plain", 2), "video": ("fast", 2),
                                                 "reference_report": ("plain", 1), "video_report": ("fast", 1)}),
    **video(3, ("compare", 0), "compared"), "tell": report(4, "fast")})

LONG = Graph("03_long_video_bounded_memory", {
    "note": note("32 chunks inside a KV cache of 4. Chunks are decoded and written to disk as soon as they are "
                 "finished: a stopped run goes on when *resume_from* is set to the name in *out_folder*.\n\n**Plan "
                 "Preview** tells cost and memory before anything is sampled."),
    **demo(), "budget": Node("FlowCache_KVBudget", 1, {"model": ("load", 0), "amount": 4.0, "sink_chunks": 1}),
    "fast": Node("FlowCache_Policy", 1, {"model": ("budget", 0), "preset": "fast"}),
    "plan": Node("FlowCache_PlanPreview", 3, {"model": ("fast", 0), "positive": ("yes", 0), "negative": ("no", 0),
                                              "length": 381}),
    "make": sampler(2, "fast", seed=1, length=381, out_folder="flowcache/long"),
    **video(2, ("make", 2), "long"), "tell": report(4, "make")})

EXTENDED = Graph("04_extend", {
    "note": note("A video, and the same video gone on with under another prompt. In place of *latents* "
                 "**Extend AR Video** takes the *out_folder* of an earlier run."),
    **demo(), "later": Node("CLIPTextEncode", 0, {"clip": ("load", 1), "text": "a red circle moving left quickly"},
                            "Prompt of what is added"),
    "begin": sampler(1, "load", "The video so far", seed=1, length=45),
    "more": Node("FlowCache_ExtendARVideo", 2, {"model": ("load", 0), "latents": ("begin", 0), "added_chunks": 4}),
    "make": sampler(2, "load", "Goes on", seed=2, positive=("later", 0), prefix_latents=("more", 0),
                    length=("more", 1)),
    **video(3, ("make", 2), "extended"), "tell": report(3, "make")})

PROMPTS = Graph("05_prompt_per_chunk", {
    "note": note("*prompts* of the sampler: from chunk 0 on the first, from chunk 4 on the second. Its *clip* encodes "
                 "them; the positive prompt is not used then."),
    **demo(), "make": sampler(1, "load", seed=3, length=93, clip=("load", 1),
                              prompts="0: a red square moving up slowly; 4: a white square moving up slowly"),
    **video(2, ("make", 2), "prompts"), "tell": report(3, "make")})

SKYREELS = Graph("06_skyreels_v2_df", {
    "note": note("SkyReels-V2 diffusion forcing 1.3B 540P. Put into ComfyUI's models folder:\n\n- *diffusion_models*: "
                 "the checkpoint, named as in the loader\n- *text_encoders*: umt5_xxl_fp8_e4m3fn_scaled.safetensors\n"
                 "- *vae*: wan_2.1_vae.safetensors\n\nWorks without **Sparse Attention**, too: it pays at high "
                 "resolution and many chunks."),
    **real(Node("FlowCache_LoadARVideoModel", 0, {"file": "skyreels_v2_df_1.3b_540p.safetensors",
                                                  "profile": "skyreels-v2-df"}),
           "a red fox walks through fresh snow at dawn, breath steaming, low sun behind birch trees"),
    "policy": Node("FlowCache_Policy", 1, {"model": ("load", 0)}),
    "budget": Node("FlowCache_KVBudget", 1, {"model": ("policy", 0), "amount": 5.0, "sink_chunks": 1}),
    "sparse": Node("FlowCache_SparseAttention", 2, {"model": ("budget", 0)}),
    "make": sampler(2, "sparse", vae=("vae", 0), seed=1, length=97, out_folder="flowcache/skyreels"),
    "plan": Node("FlowCache_PlanPreview", 3, {"model": ("sparse", 0), "positive": ("yes", 0), "negative": ("no", 0),
                                              "length": 97}),
    **video(4, ("make", 2), "skyreels", 24.0), "tell": report(4, "make")})

SELF_FORCING = Graph("07_self_forcing", {
    "note": note("Self-Forcing 1.3B, loaded by ComfyUI's own loader; **AR Profile Override** says what it is. Four "
                 "steps a chunk leave next to nothing to skip: here the KV budget is what helps.\n\nFiles: "
                 "*diffusion_models* the checkpoint as named in the loader, *text_encoders* and *vae* as for Wan2.1."),
    **real(Node("UNETLoader", 0, {"unet_name": "self_forcing_dmd.safetensors"}),
           "a paper boat drifts down a rain-filled gutter, macro shot, shallow depth of field",
           profile=Node("FlowCache_ARProfileOverride", 1, {"model": ("load", 0), "profile": "self-forcing"})),
    "budget": Node("FlowCache_KVBudget", 1, {"model": ("profile", 0), "amount": 7.0, "sink_chunks": 1}),
    "make": sampler(2, "budget", vae=("vae", 0), seed=1, length=81),
    **video(3, ("make", 2), "self_forcing"), "tell": report(3, "make")})

CUSTOM = Graph("08_custom_sampling", {
    "note": note("The chunked sampler as a SAMPLER, with noise, guider and sigmas from ComfyUI's own nodes. The sigmas "
                 "are those of one chunk."),
    **demo(), "policy": Node("FlowCache_Policy", 1, {"model": ("load", 0)}),
    "how": Node("FlowCache_SamplerChunkedAR", 1), "noise": Node("RandomNoise", 1, {"noise_seed": 1}),
    "guide": Node("CFGGuider", 1, {"model": ("policy", 0), "positive": ("yes", 0), "negative": ("no", 0), "cfg": 3.0}),
    "levels": Node("BasicScheduler", 1, {"model": ("load", 0), "steps": 30}),
    "size": Node("EmptyHunyuanLatentVideo", 2, {"width": 96, "height": 96, "length": 45}),
    "make": Node("SamplerCustomAdvanced", 2, {"noise": ("noise", 0), "guider": ("guide", 0), "sampler": ("how", 0),
                                              "sigmas": ("levels", 0), "latent_image": ("size", 0)}),
    "decode": Node("VAEDecode", 2, {"samples": ("make", 0), "vae": ("load", 2)}),
    **video(3, ("decode", 0), "custom")})

LONGLIVE = Graph("09_longlive_lora", {
    "note": note("LongLive: a base checkpoint and its LoRA. The prompt changes in the middle of the video.\n\nFiles: "
                 "*diffusion_models* and *loras* as named in the loaders, *text_encoders* and *vae* as for Wan2.1."),
    **real(Node("FlowCache_LoadARVideoModel", 0, {"file": "longlive_base.safetensors", "profile": "longlive"}),
           "a potter shapes a clay bowl on a wheel, warm workshop light",
           lora=Node("FlowCache_LoadARLoRA", 0, {"model": ("load", 0), "file": "longlive_lora.safetensors"})),
    "make": sampler(2, "lora", vae=("vae", 0), seed=1, length=237, clip=("clip", 0), out_folder="flowcache/longlive",
                    prompts="0: a potter shapes a clay bowl on a wheel, warm workshop light; "
                            "10: the potter lifts the finished bowl and smiles, warm workshop light"),
    **video(3, ("make", 2), "longlive"), "tell": report(3, "make")})

GRAPHS = (FIRST, COMPARED, LONG, EXTENDED, PROMPTS, SKYREELS, SELF_FORCING, CUSTOM, LONGLIVE)
FILES = {"diffusion_models": ("skyreels_v2_df_1.3b_540p.safetensors", "self_forcing_dmd.safetensors",
                              "longlive_base.safetensors"),
         "text_encoders": ("umt5_xxl_fp8_e4m3fn_scaled.safetensors",), "vae": ("wan_2.1_vae.safetensors",),
         "loras": ("longlive_lora.safetensors",)}   # that the graphs name, by folder of the host's models
