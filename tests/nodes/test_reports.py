"""Plan Preview, Report, Compare Runs and Extend AR Video, on the bundled demo."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.nodes import host
from tests.nodes.test_nodes import BUDGET, FIRST, POLICY, behind, graph, node, saved


@pytest.fixture(autouse=True)
def demo_loads(version):
    if version < FIRST:
        pytest.skip("this host does not load the demo's VAE, and says so")


PREVIEW = {"steps": 4, "cfg": 1.0, "shift": 0.0, "width": 0, "height": 0, "length": 45, "batch_size": 1,
           "chunk_frames": 0, "schedule": "profile", "ar_step": -1, "estimate_time": False}


def previewed(prompt: dict, **changes) -> dict:
    """The graph with a preview in place of the sampler."""
    model = prompt.pop("make")["inputs"]["model"]
    del prompt["keep"]
    return prompt | {"plan": node("FlowCache_PlanPreview", model=model, positive=["yes", 0], negative=["no", 0],
                                  **{**PREVIEW, **changes})}


def test_preview_tells_what_the_run_then_does(queue, base):
    settings = {"policy": node("FlowCache_Policy", **POLICY), "budget": node("FlowCache_KVBudget", **BUDGET)}
    told = queue.run(previewed(behind(graph(length=45), **settings)))["plan"]
    prompt = behind(graph(length=45), **settings)
    prompt["tell"] = node("FlowCache_Report", report=["make", 1])
    summary = queue.run(prompt)["tell"]["report"][0]["summary"]
    text = told["text"][0]
    assert f"model calls: {summary['model_calls']} of" in text and summary["computed"] < summary["chunk_steps"]
    kv = float(text.split("KV cache: ")[1].split(" MB")[0])
    assert kv == pytest.approx(summary["kv_peak_bytes"] / 1e6, rel=0.01)
    assert (base / "temp" / told["images"][0]["filename"]).is_file() and "time" not in text


def test_preview_estimates_time_and_says_what_it_cannot_foresee(queue):
    own = {**POLICY, "policy": "easycache", "threshold": "5", "warmup_steps": -1, "last_steps": -1,
           "max_consecutive_skips": -1}
    text = queue.run(previewed(behind(graph(), policy=node("FlowCache_Policy", **own)), estimate_time=True)
                     )["plan"]["text"][0]
    assert "time (estimated, network alone): " in text and "cannot be shown before" in text


def test_preview_refuses_what_the_run_would_refuse(queue):
    small = node("FlowCache_KVBudget", **{**BUDGET, "amount": 1.0})
    with pytest.raises(host.PromptFailed, match="needs at least"):
        queue.run(previewed(behind(graph(), budget=small)))


def runs(**changes) -> dict:
    """Uncached and accelerated in one graph, compared."""
    prompt = graph(length=21, steps=6)
    for name in ("make", "fast"):
        made = {"inputs": {**prompt["make"]["inputs"], "vae": ["load", 2]}, "class_type": prompt["make"]["class_type"]}
        prompt[name] = made
    prompt["policy"] = node("FlowCache_Policy", model=["load", 0], **POLICY)
    prompt["fast"]["inputs"]["model"] = ["policy", 0]
    asked = {"reference": ["make", 2], "video": ["fast", 2], "reference_label": "uncached",
             "video_label": "accelerated", "gain": 8.0, "reference_report": ["make", 1], "video_report": ["fast", 1]}
    prompt["compare"] = node("FlowCache_CompareRuns", **{**asked, **changes})
    return prompt


def test_two_samplers_in_one_graph_are_compared(queue, base):
    prompt = runs()
    prompt["see"] = node("SaveImage", images=["compare", 0], filename_prefix="beside")
    made = queue.run(prompt)
    first, second = made["compare"]["comparison"][0]["runs"]
    assert first["computed"] == 1 and second["computed"] < 1
    assert second["speed-up"] == pytest.approx(first["seconds"] / second["seconds"])
    assert 5 < second["PSNR dB"] < 100 and second["SSIM"] < 1 and "SSIM" in made["compare"]["text"][0]
    assert len(made["see"]["images"]) == 21


def test_same_run_has_no_difference(queue):
    row = queue.run(runs(video=["make", 2]))["compare"]["comparison"][0]["runs"][1]
    assert row["PSNR dB"] is None and row["SSIM"] == pytest.approx(1)   # infinite


@pytest.mark.parametrize(("changes", "words"), [({"video_label": "uncached"}, "give them different labels"),
                                                ({"video": ["other", 0]}, "only videos of one size and length")])
def test_bad_comparison_gets_one_sentence(queue, changes, words):
    prompt = runs(**changes)
    prompt["other"] = node("EmptyImage", width=64, height=64, batch_size=3, color=0)
    with pytest.raises(host.PromptFailed, match=words):
        queue.run(prompt)


def test_report_is_a_picture_a_table_and_json(queue, base):
    prompt = graph()
    prompt["tell"] = node("FlowCache_Report", report=["make", 1])
    prompt["see"] = node("SaveImage", images=["tell", 0], filename_prefix="picture")
    prompt["words"] = node("PreviewAny", source=["tell", 2])
    made = queue.run(prompt)
    told = made["tell"]["report"][0]
    assert told["summary"]["chunk_steps"] == 8 and [row["steps"] for row in told["chunks"]] == [4, 4]
    assert json.loads(made["words"]["text"][0]) == told and json.loads(json.dumps(told)) == told
    assert "chunk" in made["tell"]["text"][0] and len(made["see"]["images"]) == 1


SEQUENTIAL = {"schedule": "sequential", "noise_rule": "per_chunk"}


def extended(prompt: dict, **source) -> dict:
    prompt["more"] = node("FlowCache_ExtendARVideo", model=["load", 0], **{"folder": "", "added_chunks": 2, **source})
    prompt["longer"] = {"class_type": prompt["make"]["class_type"], "inputs": {
        **prompt["make"]["inputs"], "prefix_latents": ["more", 0], "length": ["more", 1], "out_folder": ""}}
    prompt["keep"]["inputs"]["samples"] = ["longer", 0]
    return prompt


def test_extension_of_latents_is_the_longer_run(queue, base):
    longer = saved(queue, base, graph(length=45, **SEQUENTIAL))
    prompt = extended(graph(**SEQUENTIAL), latents=["make", 0])
    prompt["longer"]["inputs"]["vae"] = ["load", 2]
    prompt["see"] = node("SaveImage", images=["longer", 2], filename_prefix="extended")
    made = queue.run(prompt)
    found = made["keep"]["latents"][0]
    latents = load_file(base / "output" / found["subfolder"] / found["filename"])["latent_tensor"]
    assert latents.shape == longer.shape and torch.allclose(latents, longer, atol=1e-5)
    assert len(made["see"]["images"]) == 45


def test_extension_of_a_folder_takes_its_finished_chunks(queue, base):
    short = saved(queue, base, graph(out_folder="runs/short", **SEQUENTIAL))
    prompt = extended(graph(**SEQUENTIAL), folder="runs/short")
    prompt["longer"]["inputs"]["out_folder"] = "runs/longer"
    latents = saved(queue, base, prompt)
    assert torch.allclose(latents[:, :, :6], short, atol=1e-5) and latents.shape[2] == 12
    assert "make" not in queue.executed()
    again = extended(graph(**SEQUENTIAL), folder="runs/longer")   # its folder holds what it was given, too
    assert torch.allclose(saved(queue, base, again)[:, :, :12], latents, atol=1e-5)


@pytest.mark.parametrize(("source", "words"), [
    ({}, "give one of them"), ({"folder": "nowhere"}, "holds no run"), ({"folder": "../.."}, "a name inside"),
    ({"latents": ["size", 0]}, "at least one whole chunk")])
def test_bad_extension_gets_one_sentence(queue, source, words):
    prompt = extended(graph(), **source)
    prompt["size"] = node("EmptyHunyuanLatentVideo", width=96, height=96, length=5, batch_size=1)
    with pytest.raises(host.PromptFailed, match=words):
        queue.run(prompt)
