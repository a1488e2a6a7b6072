"""The workflows of the bundled demo model, which need no download."""

from typing import Any

from .graph import NOTE, Graph, Node

DEMO = "demo (bundled)"
SQUARE = "a yellow square moving right slowly in the second lane"
CROSS = "a white cross moving down quickly in the first lane"
FPS = 16.0


def note(text: str) -> Node:
    return Node(NOTE, 0, title="Read me", text=text)


def demo(prompt: str = SQUARE) -> dict[str, Node]:
    return {"load": Node("FlowCache_LoadARVideoModel", 0, {"file": DEMO}),
            "yes": Node("CLIPTextEncode", 1, {"clip": ("load", 1), "text": prompt}, "Prompt"),
            "no": Node("CLIPTextEncode", 1, {"clip": ("load", 1), "text": ""}, "Negative prompt (empty)")}


def sampler(column: int, model: str, title: str = "", vae: tuple[str, int] = ("load", 2), **inputs: Any) -> Node:
    return Node("FlowCache_ChunkedARSampler", column, {"model": (model, 0), "positive": ("yes", 0),
                                                      "negative": ("no", 0), "vae": vae, **inputs}, title)


def video(column: int, images: tuple[str, int], prefix: str, fps: float = FPS) -> dict[str, Node]:
    return {"join": Node("CreateVideo", column, {"images": images, "fps": fps}),
            "save": Node("SaveVideo", column, {"video": ("join", 0), "filename_prefix": f"video/flowcache_{prefix}"})}


def report(column: int, source: str) -> Node:
    return Node("FlowCache_Report", column, {"report": (source, 1)})


FIRST = Graph("1_first_video", {
    "note": note("Press **Run**. The bundled model needs no download. It knows coloured shapes that move; try *a blue "
                 "circle moving up slowly in the third lane behind a wall*.\n\n**FlowCache** skips the steps whose "
                 "result would hardly differ from the last computed one: *fast* skips most, *off* changes nothing.\n\n"
                 "**FlowCache Report** shows what was computed and what was skipped, chunk by chunk."),
    **demo(), "fast": Node("FlowCache_Apply", 1, {"model": ("load", 0), "preset": "balanced"}),
    "make": sampler(1, "fast", length=93, seed=1), **video(2, ("make", 2), "first"), "tell": report(3, "make")})

COMPARED = Graph("2_uncached_and_accelerated", {
    "note": note("The same video twice: with every step computed, and accelerated. **Compare Runs** puts them side by "
                 "side and measures how they differ.\n\nBoth samplers have the same seed. The speed-up is measured, not"
                 " counted; the first run of a session also pays for warming up, so queue it twice with another seed."),
    **demo(), "fast": Node("FlowCache_Apply", 1, {"model": ("load", 0), "preset": "fast"}),
    "plain": sampler(1, "load", "Uncached", length=93, seed=1),
    "make": sampler(2, "fast", "Accelerated", length=93, seed=1),
    "compare": Node("FlowCache_CompareRuns", 3, {"reference": ("plain", 2), "video": ("make", 2),
                                                 "reference_report": ("plain", 1), "video_report": ("make", 1)}),
    **video(3, ("compare", 0), "compared"), "tell": report(4, "make")})

LONG = Graph("3_long_video_in_bounded_memory", {
    "note": note("24 chunks with a KV cache of 6: memory does not grow with the video. Every finished chunk is decoded "
                 "and written to disk at once.\n\nIf the run is stopped, set *resume_from* to the name in *out_folder* "
                 "and press **Run** again: it goes on behind the last finished chunk and ends with the same "
                 "video.\n\n**Plan Preview** tells steps, model calls, memory and time before anything is sampled: "
                 "bypass the sampler to see it alone."),
    **demo(), "policy": Node("FlowCache_Policy", 1, {"model": ("load", 0), "preset": "fast"}),
    "budget": Node("FlowCache_KVBudget", 1, {"model": ("policy", 0), "amount": 6.0, "sink_chunks": 1}),
    "plan": Node("FlowCache_PlanPreview", 3, {"model": ("budget", 0), "positive": ("yes", 0), "negative": ("no", 0),
                                              "length": 285}),
    "make": sampler(2, "budget", length=285, seed=1, out_folder="flowcache_long"),
    **video(3, ("make", 2), "long"), "tell": report(4, "make")})

PROMPTS = Graph("4_prompt_per_chunk", {
    "note": note("The widget *prompts* of the sampler: the first prompt from chunk 0 on, the second from chunk 4 on. "
                 "Its *clip* encodes them, and they take the place of *positive*.\n\nNumbers count chunks of the "
                 "finished video; the last prompt holds to the end."),
    **demo(), "fast": Node("FlowCache_Apply", 1, {"model": ("load", 0), "preset": "balanced"}),
    "make": sampler(1, "fast", length=93, seed=1, clip=("load", 1), prompts=f"0: {SQUARE}; 4: {CROSS}"),
    **video(2, ("make", 2), "prompts"), "tell": report(3, "make")})

EXTENDED = Graph("5_extend", {
    "note": note("A video of 4 chunks, and the same video gone on with for 4 more under another prompt.\n\n**Extend AR "
                 "Video** hands the second sampler what to begin with and how long the whole is. In place of *latents* "
                 "it takes a *folder*: the *out_folder* of an earlier run, finished or stopped."),
    **demo(), "later": Node("CLIPTextEncode", 1, {"clip": ("load", 1), "text": CROSS}, "Prompt of what is added"),
    "fast": Node("FlowCache_Apply", 1, {"model": ("load", 0), "preset": "balanced"}),
    "begin": sampler(1, "fast", "The video so far", length=45, seed=1),
    "more": Node("FlowCache_ExtendARVideo", 2, {"model": ("fast", 0), "latents": ("begin", 0), "added_chunks": 4}),
    "make": sampler(2, "fast", "Goes on", seed=2, positive=("later", 0), prefix_latents=("more", 0),
                    length=("more", 1)),
    **video(3, ("make", 2), "extended"), "tell": report(4, "make")})

CUSTOM = Graph("6_custom_sampling", {
    "note": note("The chunked sampler as a SAMPLER: noise, guider and sigmas come from ComfyUI's own nodes, so that "
                 "guidance variants work, too. The sigmas are those of one chunk.\n\n**FlowCache Policy** stands in "
                 "for a preset where single settings matter."),
    **demo(), "policy": Node("FlowCache_Policy", 1, {"model": ("load", 0), "policy": "flowcache", "threshold": "0.1",
                                                     "warmup_steps": 2, "max_consecutive_skips": 3}),
    "how": Node("FlowCache_SamplerChunkedAR", 1), "noise": Node("RandomNoise", 1, {"noise_seed": 1}),
    "guide": Node("CFGGuider", 2, {"model": ("policy", 0), "positive": ("yes", 0), "negative": ("no", 0), "cfg": 3.0}),
    "levels": Node("BasicScheduler", 2, {"model": ("load", 0), "scheduler": "simple", "steps": 30}),
    "size": Node("EmptyHunyuanLatentVideo", 2, {"width": 96, "height": 96, "length": 93}),
    "make": Node("SamplerCustomAdvanced", 3, {"noise": ("noise", 0), "guider": ("guide", 0), "sampler": ("how", 0),
                                              "sigmas": ("levels", 0), "latent_image": ("size", 0)}),
    "decode": Node("VAEDecode", 3, {"samples": ("make", 0), "vae": ("load", 2)}),
    **video(3, ("decode", 0), "custom")})

DEMO_GRAPHS = (FIRST, COMPARED, LONG, PROMPTS, EXTENDED, CUSTOM)
