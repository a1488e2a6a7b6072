"""Models and sizes that cannot work, wired in for real: a red node with one sentence that says what to change."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.nodes import host, tiny
from tests.nodes.test_nodes import FIRST, behind, graph, node


@pytest.fixture(autouse=True)
def demo_loads(version):
    if version < FIRST:
        pytest.skip("this host does not load the demo's VAE, and says so")


@pytest.fixture
def files(base):
    """What a user may have in models/diffusion_models that is no autoregressive model, by its file's name."""
    folder = base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    plain = tiny.weights()
    save_file(plain, folder / "plain_wan.safetensors")
    save_file(plain | {"patch_embedding.weight": torch.zeros(tiny.DIM, 36, 1, 2, 2)}, folder / "image_wan.safetensors")
    vace = {f"vace_{name}": value.clone() for name, value in plain.items() if name.startswith("blocks.0.")}
    vace |= {f"vace_blocks.0.{part}.{kind}": torch.zeros(shape) for part in ("before_proj", "after_proj")
             for kind, shape in (("weight", (tiny.DIM, tiny.DIM)), ("bias", (tiny.DIM,)))}
    vace |= {"vace_patch_embedding.weight": torch.zeros(tiny.DIM, 96, 1, 2, 2),
             "vace_patch_embedding.bias": torch.zeros(tiny.DIM)}
    save_file(plain | vace, folder / "vace.safetensors")


def loaded(file: str, **sampler) -> dict[str, dict]:
    prompt = graph(steps=0, length=9, **sampler)
    return prompt | {"other": node("UNETLoader", unet_name=file, weight_dtype="default")}


PROFILE = {"profile": "self-forcing", "chunk_frames": 0, "plan": "as it is", "window_frames": -1, "sink_frames": -1,
           "context_timestep": -1.0}


@pytest.mark.parametrize(("file", "profiled", "words"), [
    ("plain_wan", False, "this model has no AR profile"), ("image_wan", True, "a model with 36 input channels"),
    ("vace", True, "model of class VaceWanModel: expected an autoregressive video model")])
def test_a_model_that_is_not_autoregressive_is_named(queue, files, file, profiled, words):
    prompt = loaded(f"{file}.safetensors")
    if profiled:
        prompt = behind(prompt, profile=node("FlowCache_ARProfileOverride", **PROFILE))
        prompt["profile"]["inputs"]["model"] = ["other", 0]
    else:
        prompt["make"]["inputs"]["model"] = ["other", 0]
    with pytest.raises(host.PromptFailed, match=words) as failed:
        queue.run(prompt)
    assert "\n" not in str(failed.value).strip()


@pytest.mark.parametrize("kind", ["FlowCache_Apply", "FlowCache_Policy", "FlowCache_PlanPreview"])
def test_a_preset_on_a_model_without_profile_says_what_is_missing(queue, files, kind):
    prompt = loaded("plain_wan.safetensors")
    widgets = {"FlowCache_Apply": {"preset": "fast"}, "FlowCache_Policy": {
        "policy": "flowcache", "preset": "auto", "threshold": "0.1", "warmup_steps": -1, "last_steps": -1,
        "max_consecutive_skips": -1, "predictor": "velocity", "more_settings": ""}}
    if kind in widgets:
        prompt["how"] = node(kind, model=["other", 0], **widgets[kind])
        prompt["make"]["inputs"]["model"] = ["how", 0]
    else:
        prompt["how"] = node("FlowCache_PlanPreview", model=["other", 0], positive=["yes", 0], negative=["no", 0],
                             steps=2, cfg=1.0, shift=0.0, width=0, height=0, length=9, batch_size=1, chunk_frames=0,
                             schedule="profile", ar_step=-1, estimate_time=False)
    with pytest.raises(host.PromptFailed, match="load it with Load AR Video Model, or put AR Profile Override behind"):
        queue.run(prompt)


@pytest.mark.parametrize(("size", "words"), [
    ({"length": 82}, "length 82: expected 4n [+] 1 pixel frames; set 81 or 85"),
    ({"width": 100}, "width 100: expected a multiple of 16 pixels; set 96 or 112"),
    ({"height": 8}, "height 8: expected a multiple of 16 pixels; set 0 or 16")])
def test_a_size_that_would_be_rounded_is_refused(queue, size, words):
    with pytest.raises(host.PromptFailed, match=words):
        queue.run(graph(**size))


def test_a_profile_of_ones_own_is_read_from_its_file(queue, base, pack, tmp_path):
    core, path = tiny.core(pack, "profiles.reading"), tmp_path / "mine.json"
    data = json.loads((core.FOLDER / "demo.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | {"name": "mine", "title": "My model", "chunk_frames": 2}))

    def overridden(file, profile="as it is"):
        return behind(graph(length=9, steps=1, chunk_frames=3),
                      profile=node("FlowCache_ARProfileOverride", **PROFILE | {"profile": profile},
                                   profile_file=str(file)))

    for prompt, words in ((overridden(path), "My model was made for chunks of 2 latent frames; set 0 or 2"),
                          (overridden(path, "demo"), "with profile demo: give one of the two"),
                          (overridden(tmp_path / "none.json"), "none.json: no profile .no such file."),
                          (overridden("mine"), "expected the path of a .json file")):
        with pytest.raises(host.PromptFailed, match=words):
            queue.run(prompt)
