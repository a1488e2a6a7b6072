"""Sampler Chunked AR under SamplerCustomAdvanced: what the all-in-one node can, as far as a SAMPLER can."""

import pytest
import torch
from safetensors.torch import load_file

from tests.nodes import host, tiny
from tests.nodes.test_nodes import FIRST, POLICY, PROMPT, behind, graph, node, saved

THEN = "a blue square moving up slowly"


@pytest.fixture(autouse=True)
def demo_loads(version):
    if version < FIRST:
        pytest.skip("this host does not load the demo's VAE, and says so")


def custom(length: int = 21, seed: int = 3, policy: bool = True, **sampler) -> dict[str, dict]:
    """The all-in-one graph with the host's own custom sampling in place of the node."""
    asked = {"chunk_frames": 0, "schedule": "profile", "ar_step": -1, "solver": "profile", "noise_rule": "given",
             "prompts": "", "out_folder": "", "resume_from": "", **sampler}
    prompt = behind(graph(), policy=node("FlowCache_Policy", **POLICY))
    return prompt | {
        "levels": node("ManualSigmas", sigmas="1.0, 0.9, 0.8, 0.6, 0.4, 0.0"),
        "how": node("FlowCache_SamplerChunkedAR", **asked), "noise": node("RandomNoise", noise_seed=seed),
        "guide": node("CFGGuider", model=["policy" if policy else "load", 0], positive=["yes", 0], negative=["no", 0],
                      cfg=1.0),
        "size": node("EmptyHunyuanLatentVideo", width=96, height=96, length=length, batch_size=1),
        "make": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guide", 0], sampler=["how", 0],
                     sigmas=["levels", 0], latent_image=["size", 0])}


def test_prompts_per_chunk_are_those_of_the_all_in_one_node(queue, base):
    words = f"0: {PROMPT}; 1: {THEN}"
    one = graph(noise_rule="given", steps=0, prompts=words)
    one["levels"] = node("ManualSigmas", sigmas="1.0, 0.9, 0.8, 0.6, 0.4, 0.0")
    one["make"]["inputs"] |= {"sigmas": ["levels", 0], "clip": ["load", 1]}
    ours = saved(queue, base, custom(policy=False, prompts=words, clip=["load", 1]))
    assert torch.equal(ours, saved(queue, base, one))
    plain = saved(queue, base, custom(policy=False))
    assert torch.equal(ours[:, :, :3], plain[:, :, :3]) and not torch.equal(ours[:, :, 3:], plain[:, :, 3:])


def test_a_stopped_run_goes_on_from_its_folder_and_its_report_is_read_there(queue, base, pack, monkeypatch):
    import comfy.model_management

    plain = saved(queue, base, custom(length=45))
    keeping = tiny.bridge(pack, "keeping")
    save = keeping.RunFolder.save_chunk

    def stop(self, chunk, latent):
        save(self, chunk, latent)
        comfy.model_management.interrupt_current_processing(len(self.saved) == 2)

    with monkeypatch.context() as patch:
        patch.setattr(keeping.RunFolder, "save_chunk", stop)
        with pytest.raises(host.PromptFailed, match="interrupted"):
            queue.run(custom(length=45, out_folder="runs/custom"))
    with pytest.raises(host.PromptFailed, match="is another run: settings.seed is 4, it was 3"):
        queue.run(custom(length=45, seed=4, resume_from="runs/custom"))
    prompt = custom(length=45, resume_from="runs/custom")
    prompt["tell"] = node("FlowCache_Report", folder="runs/custom", after=["make", 0])
    told = queue.run(prompt)
    latent = told["keep"]["latents"][0]
    went_on = load_file(base / "output" / latent["subfolder"] / latent["filename"])["latent_tensor"]
    assert torch.equal(went_on, plain)
    report = told["tell"]["report"][0]
    assert len(report["chunks"]) == 4 and report["summary"]["computed"] < report["summary"]["chunk_steps"] == 20


@pytest.mark.parametrize(("sampler", "words"), [
    ({"prompts": f"0: {PROMPT}; 9: {THEN}", "clip": ["load", 1]}, "prompt for chunk 9: the video has 2 chunks"),
    ({"prompts": f"0: {PROMPT}; 1: {THEN}"}, "connect clip"), ({"out_folder": "../../elsewhere"}, "a name inside"),
    ({"resume_from": "nowhere"}, "holds no run"), ({"prefix_latents": ["size", 0]}, "make the video longer")])
def test_what_cannot_be_gets_one_sentence(queue, sampler, words):
    with pytest.raises(host.PromptFailed, match=words):
        queue.run(custom(**sampler))


@pytest.mark.parametrize(("inputs", "words"), [({}, "give one of them"), ({"folder": "nowhere"}, "holds no report"),
                                               ({"folder": "runs", "report": ["make", 1]}, "disconnect report")])
def test_a_report_of_nothing_gets_one_sentence(queue, inputs, words):
    with pytest.raises(host.PromptFailed, match=words):
        queue.run(graph(steps=2, length=9) | {"tell": node("FlowCache_Report", **{"folder": "", **inputs})})
