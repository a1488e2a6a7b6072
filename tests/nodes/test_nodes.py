"""The nodes as prompts: the bundled demo from loader to frames, and one sentence for what cannot work."""

import importlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.nodes import host, tiny

FIRST = (0, 21)   # hosts before that load no VAE of the demo's size
PROMPT = "a red circle moving right quickly"


@pytest.fixture(autouse=True)
def demo_loads(request, version):
    if "queue" in request.fixturenames and version < FIRST:
        pytest.skip("this host does not load the demo's VAE, and says so")


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def graph(steps: int = 4, length: int = 21, **sampler) -> dict[str, dict]:
    """Loader, prompts, sampler, and the host's own save of the latent."""
    asked = {"seed": 3, "steps": steps, "cfg": 1.0, "shift": 0.0, "width": 0, "height": 0, "length": length,
             "batch_size": 1, "chunk_frames": 0, "schedule": "profile", "ar_step": -1, "noise_rule": "profile",
             "prompts": "", "out_folder": "", "resume_from": "", **sampler}
    return {"load": node("FlowCache_LoadARVideoModel", file="demo (bundled)", profile="auto", weights="auto",
                         dtype="default"),
            "yes": node("CLIPTextEncode", clip=["load", 1], text=PROMPT),
            "no": node("CLIPTextEncode", clip=["load", 1], text=""),
            "make": node("FlowCache_ChunkedARSampler", model=["load", 0], positive=["yes", 0], negative=["no", 0],
                         **asked),
            "keep": node("SaveLatent", samples=["make", 0], filename_prefix="nodes")}


def saved(queue: host.Queue, base, prompt: dict) -> torch.Tensor:
    found = queue.run(prompt)["keep"]["latents"][0]
    return load_file(base / "output" / found["subfolder"] / found["filename"])["latent_tensor"]


def behind(prompt: dict, **nodes: dict) -> dict:
    """With nodes between loader and sampler, in their order."""
    model = ["load", 0]
    for name, made in nodes.items():
        prompt[name] = {**made, "inputs": {"model": model, **made["inputs"]}}
        model = [name, 0]
    prompt["make"]["inputs"]["model"] = model
    return prompt


POLICY = {"policy": "flowcache", "preset": "auto", "threshold": "5", "warmup_steps": 1, "last_steps": 0,
          "max_consecutive_skips": 1, "predictor": "velocity", "more_settings": ""}
BUDGET = {"amount": 3.0, "unit": "chunks", "method": "oldest leave", "sink_chunks": 1, "recent_chunks": 0,
          "granularity": "token", "merger": "none", "more_settings": "", "device": "auto", "dtype": "auto"}


SPARSE = {"self_attention": "annsa", "cross_attention": "dense", "dense_steps": 0.3, "dense_blocks": 0.0,
          "self_settings": "block=16, query_block=16, dense_below=0, keep=0.5, least_share=0, recent_frames=0",
          "cross_settings": ""}


def test_sparse_attention_changes_the_video_and_taking_everything_does_not(queue, base, caplog):
    plain = saved(queue, base, graph(steps=6, length=45))
    everything = {**SPARSE, "self_settings": "keep=1", "cross_attention": "annca", "cross_settings": "share=1"}
    whole = saved(queue, base, behind(graph(steps=6, length=45), how=node("FlowCache_SparseAttention", **everything)))
    with caplog.at_level("INFO"):
        some = saved(queue, base, behind(graph(steps=6, length=45), how=node("FlowCache_SparseAttention", **SPARSE)))
    assert torch.equal(whole, plain) and torch.isfinite(some).all() and not torch.equal(some, plain)
    assert "sparse self-attention looked at" in caplog.text


def test_merged_keys_go_through_the_hosts_attention(queue, base):
    """With their weight as a mask; int8 keys with the correction of their rounding, in wider heads."""
    merging = {**BUDGET, "method": "attention", "merger": "close_links", "sink_chunks": 0}
    for dtype in ("auto", "int8"):
        budget = node("FlowCache_KVBudget", **{**merging, "dtype": dtype})
        assert torch.isfinite(saved(queue, base, behind(graph(length=57), budget=budget))).all()


@pytest.mark.parametrize(("settings", "words"), [
    ({"self_settings": "speed=9"}, "no setting speed"), ({"self_settings": "codes=morse"}, "choose one of lsh, quant"),
    ({"cross_settings": "share=0.5"}, "for an attention that is dense")])
def test_bad_sparse_attention_gets_one_sentence(queue, settings, words):
    with pytest.raises(host.PromptFailed, match=words):
        queue.run(behind(graph(), how=node("FlowCache_SparseAttention", **{**SPARSE, **settings})))


def test_demo_from_loader_to_frames(queue, base):
    from PIL import Image

    prompt = graph()
    prompt["make"]["inputs"]["vae"] = ["load", 2]
    prompt["see"] = node("SaveImage", images=["make", 2], filename_prefix="nodes")
    prompt["decode"] = node("VAEDecode", samples=["make", 0], vae=["load", 2])
    prompt["whole"] = node("SaveImage", images=["decode", 0], filename_prefix="whole")
    made = queue.run(prompt)
    assert len(made["see"]["images"]) == len(made["whole"]["images"]) == 21
    for streamed, whole in zip(made["see"]["images"], made["whole"]["images"], strict=True):
        a, b = (np.asarray(Image.open(base / "output" / image["filename"])).astype(int) for image in (streamed, whole))
        assert abs(a - b).max() <= 1


def test_policy_and_budget_change_the_video_and_off_does_not(queue, base):
    plain = saved(queue, base, graph())
    skipped = saved(queue, base, behind(graph(), policy=node("FlowCache_Policy", **POLICY)))
    bounded = saved(queue, base, behind(graph(length=45), budget=node("FlowCache_KVBudget", **BUDGET)))
    elsewhere = node("FlowCache_KVBudget", **{**BUDGET, "device": "cpu"})
    away = saved(queue, base, behind(graph(length=45), budget=elsewhere))
    assert torch.equal(away, bounded)
    off = saved(queue, base, behind(graph(), policy=node("FlowCache_Policy", **{**POLICY, "threshold": "0"})))
    preset = saved(queue, base, behind(graph(), all=node("FlowCache_Apply", preset="off")))
    assert torch.equal(off, plain) and torch.equal(preset, plain) and not torch.equal(skipped, plain)
    assert bounded.shape[2] == 12 and torch.isfinite(bounded).all()


def test_a_tuned_preset_file_stands_in_for_a_preset(queue, base, tmp_path):
    path = tmp_path / "tuned.json"
    settings = {"threshold": "0:0.3, 1+:5", "warmup_steps": 1, "last_steps": 0}
    path.write_text(json.dumps({"profile": "demo", "provenance": {"command": "tune"}, "presets": {
        "tuned": {"policy": "flowcache", "settings": settings, "predictor": "taylor"}}}))
    plain = {**POLICY, "warmup_steps": -1, "last_steps": -1, "max_consecutive_skips": -1, "threshold": ""}
    given = {**plain, "policy": "from preset", "predictor": "from preset", "preset_file": f" {path} "}
    words = {**plain, **settings, "predictor": "taylor"}
    read, told = (saved(queue, base, behind(graph(), policy=node("FlowCache_Policy", **its))) for its in (given, words))
    assert torch.equal(read, told)
    for wrong, said in (({"policy": "flowcache"}, "it counts where policy is 'from preset'"),
                        ({"preset_file": "tuned.txt"}, "expected the path of a .json file"),
                        ({"preset_file": str(tmp_path / "none.json")}, "none.json")):
        with pytest.raises(host.PromptFailed, match=said):
            saved(queue, base, behind(graph(), policy=node("FlowCache_Policy", **{**given, **wrong})))


def test_start_and_end_percent_bound_what_a_policy_skips(queue, base):
    """On chunks, and under an ordinary sampler."""
    def run(prompt, start, end):
        spans = {**POLICY, "max_consecutive_skips": 0, "start_percent": start, "end_percent": end}
        return saved(queue, base, behind(prompt, policy=node("FlowCache_Policy", **spans)))

    latent = node("EmptyHunyuanLatentVideo", width=96, height=96, length=9, batch_size=1)
    whole = {"size": latent, "make": node(
        "KSampler", model=["policy", 0], positive=["yes", 0], negative=["no", 0], latent_image=["size", 0], seed=1,
        steps=4, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0)}
    for changes in ({}, whole):
        plain = saved(queue, base, behind(graph(length=9) | changes))
        assert torch.equal(run(graph(length=9) | changes, 0.3, 0.4), plain)   # between steps 1 and 2 of 4
        late, all_of_them = (run(graph(length=9) | changes, start, 1.0) for start in (0.6, 0.0))
        assert not torch.equal(late, plain) and not torch.equal(late, all_of_them)
    with pytest.raises(host.PromptFailed, match="start_percent 0.9 above end_percent 0.5"):
        run(graph(), 0.9, 0.5)


@pytest.mark.parametrize(("policy", "threshold"), [("flowcache", "5"), ("teacache", "5"), ("easycache", "50"),
                                                   ("motioncache", "5"), ("mixcache", "100")])
def test_ksampler_with_a_policy_samples_the_whole_video(queue, base, policy, threshold):
    more = {"mixcache": "open_below=1, close_above=1000, warmup_steps=1", "teacache": "warmup_rows=1",
            "easycache": "warmup_share=0.1", "motioncache": "warmup_steps=1"}
    own = {**POLICY, "policy": policy, "threshold": threshold, "warmup_steps": -1, "last_steps": -1,
           "max_consecutive_skips": -1, "more_settings": more.get(policy, "")}
    prompt = behind(graph(), policy=node("FlowCache_Policy", **(POLICY if policy == "flowcache" else own)))
    latent = node("EmptyHunyuanLatentVideo", width=96, height=96, length=9, batch_size=1)
    prompt |= {"size": latent, "make": node(
        "KSampler", model=["policy", 0], positive=["yes", 0], negative=["no", 0], latent_image=["size", 0], seed=1,
        steps=4, cfg=2.0, sampler_name="euler", scheduler="simple", denoise=1.0)}
    skipped = saved(queue, base, prompt)
    prompt["make"]["inputs"]["model"] = ["load", 0]
    assert not torch.equal(skipped, saved(queue, base, prompt))


def test_sampler_for_custom_sampling_is_the_all_in_one(queue, base, pack, monkeypatch):
    prompt = graph(noise_rule="given", steps=0)
    prompt |= {"levels": node("ManualSigmas", sigmas="1.0, 0.8, 0.5, 0.0"),
               "how": node("FlowCache_SamplerChunkedAR", chunk_frames=0, schedule="profile", ar_step=-1,
                           solver="profile", noise_rule="given"),
               "noise": node("RandomNoise", noise_seed=3), "guide": node(
                   "CFGGuider", model=["load", 0], positive=["yes", 0], negative=["no", 0], cfg=1.0),
               "size": node("EmptyHunyuanLatentVideo", width=96, height=96, length=21, batch_size=1)}
    prompt["make"]["inputs"] |= {"sigmas": ["levels", 0]}
    one = saved(queue, base, prompt)
    prompt["make"] = node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guide", 0], sampler=["how", 0],
                          sigmas=["levels", 0], latent_image=["size", 0])
    assert torch.equal(saved(queue, base, prompt), one)
    stop_at(monkeypatch, pack, 0)
    prompt["noise"]["inputs"]["noise_seed"] = 4
    with pytest.raises(host.PromptFailed, match="interrupted"):
        saved(queue, base, prompt)
    monkeypatch.undo()
    prompt["noise"]["inputs"]["noise_seed"] = 3
    assert torch.equal(saved(host.Queue(), base, prompt), one), "an interrupted run left something behind"


def stop_at(monkeypatch, pack, chunk: int) -> None:
    """Interrupts the host when this chunk is finished."""
    import comfy.model_management

    monkeypatch.setattr(tiny.bridge(pack, "listening").Collector, "chunk", lambda self, number, latent: number == chunk
                        and comfy.model_management.interrupt_current_processing(True))


def test_without_the_hosts_output_cache_nothing_changes(queue, base):
    none = host.Queue("NONE")
    expected = saved(queue, base, graph(steps=2, length=9))
    assert all(torch.equal(saved(none, base, graph(steps=2, length=9)), expected) for _ in range(2))


def test_shift_of_another_node_is_told_to_do_nothing(queue, base, caplog):
    shift = node("ModelSamplingSD3", shift=9.0)
    plain = saved(queue, base, graph(steps=2, length=9))
    assert torch.equal(saved(queue, base, behind(graph(steps=2, length=9), shift=shift)), plain)
    assert "a ModelSampling node on this model does nothing here" in caplog.text


def test_prompts_per_chunk_change_what_comes_after(queue, base):
    prompt = graph(prompts=f"0: {PROMPT}; 1: a blue square moving up slowly")
    prompt["make"]["inputs"]["clip"] = ["load", 1]
    changed, plain = saved(queue, base, prompt), saved(queue, base, graph())
    assert torch.equal(changed[:, :, :3], plain[:, :, :3]) and not torch.equal(changed[:, :, 3:], plain[:, :, 3:])


def test_interrupted_run_goes_on_and_ends_with_the_same_video(queue, base, pack, monkeypatch, caplog):
    import comfy.model_management

    settings = {"policy": node("FlowCache_Policy", **POLICY), "budget": node("FlowCache_KVBudget", **BUDGET)}
    plain = saved(queue, base, behind(graph(length=45), **settings))
    keeping = tiny.bridge(pack, "keeping")
    save = keeping.RunFolder.save_chunk

    def stop(self, chunk, latent):
        save(self, chunk, latent)
        if len(self.saved) == 2:
            comfy.model_management.interrupt_current_processing(True)

    with monkeypatch.context() as patch:
        patch.setattr(keeping.RunFolder, "save_chunk", stop)
        with pytest.raises(host.PromptFailed, match="interrupted"):
            queue.run(behind(graph(length=45, out_folder="runs/one", vae=["load", 2]), **settings))
    assert "resume_from set to runs/one" in caplog.text
    assert (base / "output/runs/one/state-0002.safetensors").is_file(), "the state of the chunk on disk is lost"
    with pytest.raises(host.PromptFailed, match="holds an unfinished run"):
        queue.run(behind(graph(length=45, out_folder="runs/one"), **settings))
    with pytest.raises(host.PromptFailed, match="is another run: settings.seed is 4, it was 3"):
        queue.run(behind(graph(length=45, resume_from="runs/one", seed=4), **settings))
    went_on = saved(queue, base, behind(graph(length=45, resume_from="runs/one"), **settings))
    assert torch.equal(went_on, plain) and (base / "output/runs/one/trace.json").is_file()


BAD = {
    "unknown word": ({"yes": {"text": "a dragon"}}, {}, "unknown words in the prompt: dragon"),
    "chunk size": ({"make": {"chunk_frames": 5}}, {}, "was made for chunks of 3 latent frames; set 0 or 3"),
    "sigmas and steps": ({"make": {"sigmas": ["levels", 0]}}, {"levels": node("ManualSigmas", sigmas="1.0, 0.0")},
                         "set steps and shift to 0"),
    "unfinished sigmas": ({"make": {"sigmas": ["levels", 0], "steps": 0}},
                          {"levels": node("ManualSigmas", sigmas="1.0, 0.5")}, "a schedule that ends with 0"),
    "prompts without clip": ({"make": {"prompts": "0: a; 1: b"}}, {}, "connect clip"),
    "outside": ({"make": {"out_folder": "../../elsewhere"}}, {}, "a name inside ComfyUI's output folder"),
    "nothing there": ({"make": {"resume_from": "nowhere"}}, {}, "holds no run"),
    "long prefix": ({"make": {"prefix_latents": ["size", 0]}},
                    {"size": node("EmptyHunyuanLatentVideo", width=96, height=96, length=21, batch_size=1)},
                    "make the video longer"),
    "wrong channels": ({"make": {"latent": ["size", 0]}}, {"size": node("EmptyLatentAudio", seconds=1.0, batch_size=1)},
                       "expected a video of 16 channels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(queue, case):
    changes, nodes, words = BAD[case]
    prompt = graph() | nodes
    for name, inputs in changes.items():
        prompt[name]["inputs"] |= inputs
    with pytest.raises(host.PromptFailed) as failed:
        queue.run(prompt)
    assert words in str(failed.value) and "\n" not in str(failed.value).strip()


@pytest.mark.parametrize(("settings", "words"), [
    ({"amount": 1.0}, "needs at least"), ({"device": "gpu"}, "runs on the CPU; choose auto or cpu"),
    ({"amount": 0.0, "method": "recency"}, "set an amount"), ({"more_settings": "mix=1"}, "scores nothing")])
def test_bad_budget_gets_one_sentence(queue, settings, words):
    with pytest.raises(host.PromptFailed, match=words):
        queue.run(behind(graph(), budget=node("FlowCache_KVBudget", **{**BUDGET, **settings})))


def test_other_step_caches_and_context_windows_are_named(queue):
    easy = node("EasyCache", reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False)
    with pytest.raises(host.PromptFailed, match="EasyCache or LazyCache and FlowCache are both on this model"):
        queue.run(behind(graph(), other=easy))


def test_lora_under_published_names(pack, tmp_path):
    lora, model = importlib.import_module(f"{pack.__name__}.nodes.load_lora"), tiny.load()
    a, b = torch.randn(4, tiny.DIM), torch.randn(tiny.DIM, 4)
    for prefix in ("base_model.model.", "", "model.", "diffusion_model.", "base_model.model.diffusion_model."):
        tensors = {f"{prefix}blocks.0.self_attn.q.lora_A.weight": a, f"{prefix}blocks.0.self_attn.q.lora_B.weight": b}
        assert len(lora.patched(model, tensors, 1.0, "x").patches) == 1
    with pytest.raises(ValueError, match="none of its 1 tensors belongs to this model"):
        lora.patched(model, {"something.weight": a}, 1.0, "x.safetensors")


def test_model_of_another_kind_gets_one_sentence(pack):
    class Other:
        diffusion_model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="model of class Linear: expected an autoregressive video model"):
        tiny.bridge(pack, "network").network_of(Other())

