"""Workflows that wait for released weights."""

from .demo_graphs import note, report, sampler, video
from .graph import Graph, Node

SPLIT = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
TEXT, VAE = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"
FOX = "a red fox walks through fresh snow at dawn, its breath steaming, low sun behind birch trees"
BOAT = "a paper boat drifts down a gutter full of rain, macro shot, shallow depth of field"
CLAY, BOWL = ("a potter shapes a clay bowl on a wheel, warm workshop light",
              "the potter lifts the finished bowl and smiles, warm workshop light")
FOLDERS = ("\n\nInto ComfyUI's folder *models*:\n- *diffusion_models*: {file}\n{more}- *text_encoders*: {text}\n"
           "- *vae*: {vae}\n\nFiles of other names do, too: choose them in the loaders.")


def folders(file: str, more: str = "") -> str:
    return FOLDERS.format(file=file, more=more, text=TEXT, vae=VAE)


def file(kind: str, folder: str, name: str, **inputs: str) -> Node:
    model = {"name": name, "url": f"{SPLIT}/{folder}/{name}", "directory": folder}
    return Node(kind, 0, inputs, models=(model,))


def real(model: Node, prompt: str, negative: str = "") -> dict[str, Node]:
    """Loaders, and the prompts in a column of their own."""
    return {"load": model, "clip": file("CLIPLoader", "text_encoders", TEXT, clip_name=TEXT, type="wan"),
            "vae": file("VAELoader", "vae", VAE, vae_name=VAE),
            "yes": Node("CLIPTextEncode", 1, {"clip": ("clip", 0), "text": prompt}, "Prompt"),
            "no": Node("CLIPTextEncode", 1, {"clip": ("clip", 0), "text": negative}, "Negative prompt")}


SKYREELS = Graph("skyreels_v2_df", {
    "note": note("SkyReels-V2 diffusion forcing, 1.3B at 540P, with step reuse, a KV budget and sparse attention. "
                 "**Plan Preview** tells time and memory before anything is sampled.\n\n**Sparse Attention** pays at "
                 "high resolution and many chunks; bypass it for the exact video. Give *out_folder* a name of its own "
                 "for every video." + folders("SkyReels-V2-DF-1.3B-540P.safetensors")),
    **real(Node("FlowCache_LoadARVideoModel", 0, {"file": "SkyReels-V2-DF-1.3B-540P.safetensors",
                                                  "profile": "skyreels-v2-df"}), FOX,
           "blurred, static, low quality, watermark"),
    "policy": Node("FlowCache_Policy", 1, {"model": ("load", 0), "preset": "balanced"}),
    "budget": Node("FlowCache_KVBudget", 1, {"model": ("policy", 0), "amount": 6.0, "sink_chunks": 1}),
    "sparse": Node("FlowCache_SparseAttention", 1, {"model": ("budget", 0)}),
    "plan": Node("FlowCache_PlanPreview", 3, {"model": ("sparse", 0), "positive": ("yes", 0), "negative": ("no", 0),
                                              "length": 97}),
    "make": sampler(2, "sparse", vae=("vae", 0), seed=1, length=97, out_folder="flowcache_skyreels"),
    **video(3, ("make", 2), "skyreels", 24.0), "tell": report(4, "make")})

SELF_FORCING = Graph("self_forcing", {
    "note": note("Self-Forcing 1.3B from ComfyUI's own loader; **AR Profile Override** says how it is sampled. (**Load "
                 "AR Video Model** would recognise it, and takes *.pt* files and shards, too.)\n\nFour steps a chunk "
                 "leave next to nothing to skip: here the KV budget is what helps." +
                 folders("self_forcing_dmd.safetensors")),
    **real(Node("UNETLoader", 0, {"unet_name": "self_forcing_dmd.safetensors"}), BOAT),
    "profile": Node("FlowCache_ARProfileOverride", 1, {"model": ("load", 0), "profile": "self-forcing"}),
    "budget": Node("FlowCache_KVBudget", 1, {"model": ("profile", 0), "amount": 8.0, "sink_chunks": 1}),
    "make": sampler(2, "budget", vae=("vae", 0), seed=1, length=81),
    **video(3, ("make", 2), "self_forcing"), "tell": report(4, "make")})

LONGLIVE = Graph("longlive", {
    "note": note("LongLive: a base checkpoint and its LoRA, one minute of video, and a prompt that changes in the "
                 "middle. Its window keeps the KV cache small by itself." +
                 folders("longlive_base.safetensors", "- *loras*: longlive_lora.safetensors\n")),
    **real(Node("FlowCache_LoadARVideoModel", 0, {"file": "longlive_base.safetensors", "profile": "longlive"}), CLAY),
    "lora": Node("FlowCache_LoadARLoRA", 1, {"model": ("load", 0), "file": "longlive_lora.safetensors"}),
    "make": sampler(1, "lora", vae=("vae", 0), seed=1, length=957, clip=("clip", 0), out_folder="flowcache_longlive",
                    prompts=f"0: {CLAY}; 40: {BOWL}"),
    **video(2, ("make", 2), "longlive"), "tell": report(3, "make")})

REAL_GRAPHS = (SKYREELS, SELF_FORCING, LONGLIVE)
