"""What docs/headless.md promises, on ComfyUI's own server: prompts by HTTP, what it tells, what it leaves."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.nodes import server as servers

pytestmark = pytest.mark.server
FIRST = (0, 21)   # hosts before that load no VAE of the demo's size
FREE_MB = 20   # what ten prompts may leave in memory, after the third
CLI = (os.environ.get("COMFY_CLI"), shutil.which("comfy"), "~/comfy/cli/bin/comfy")


@pytest.fixture(scope="module")
def server(root, version, tmp_path_factory):
    if version < FIRST:
        pytest.skip("this host does not load the demo's VAE, and says so")
    base = tmp_path_factory.mktemp("server")
    front = base / "front"
    front.mkdir()
    (front / "index.html").write_text("no front end is needed here")
    with servers.started(Path(os.environ["COMFYUI_PATH"]), root, base, "--front-end-root", str(front)) as running:
        yield running


def workflow(root: Path, name: str, seed: int = 1, steps: int = 3, length: int = 21, **sampler: str) -> dict:
    prompt = json.loads((root / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    (make,) = (n for n in prompt.values() if n["class_type"] == "FlowCache_ChunkedARSampler")
    make["inputs"].update(seed=seed, steps=steps, length=length, **sampler)
    return prompt


def number_of(prompt: dict, kind: str) -> str:
    return next(key for key, node in prompt.items() if node["class_type"] == kind)


def test_a_prompt_tells_its_progress_and_leaves_report_and_file_twice(server, root):
    for seed in (1, 2):
        prompt = workflow(root, "1_first_video", seed)
        told = server.run(prompt)
        assert told.status == "success"
        steps = [data for data in told.of("progress")
                 if data["node"] == number_of(prompt, "FlowCache_ChunkedARSampler")]
        assert len({data["max"] for data in steps}) == 1 and steps[-1]["value"] == steps[-1]["max"]
        assert [data["value"] for data in steps] == sorted(data["value"] for data in steps)
        assert told.previews and any("chunk 2/2" in text and "left" in text for text in told.texts)
        (report,) = told.output("report")
        assert report["settings"]["seed"] == seed and len(report["chunks"]) == 2
        (video,) = (entry for shown in told.history["outputs"].values() for entry in shown.get("images", [])
                    if entry["filename"].endswith(".mp4"))
        written = (server.output / video["subfolder"] / video["filename"]).read_bytes()
        query = f"filename={video['filename']}&subfolder={video['subfolder']}&type={video['type']}"
        assert len(written) > 1000 and server.ask(f"/view?{query}") == written
    assert len(list((server.output / "video").glob("flowcache_first*.mp4"))) == 2
    unchanged = server.run(prompt)
    assert unchanged.status == "success" and not unchanged.of("progress")


def chunks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("chunk-*.safetensors")}


def decided(report: dict) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in report["chunks"]]


def test_an_interrupted_prompt_goes_on_from_its_folder_to_the_same_bits(server, root):
    asked = {"steps": 4, "length": 45, "seed": 5}
    folder = server.output / "stopped"

    def interrupt(number: str) -> None:
        deadline = time.monotonic() + 120
        while not chunks(folder):
            assert time.monotonic() < deadline, "no chunk was finished"
            time.sleep(0.02)
        server.ask("/interrupt", {"prompt_id": number})

    stopped = server.run(workflow(root, "3_long_video_in_bounded_memory", out_folder="stopped", **asked), interrupt)
    kept = chunks(folder)
    assert stopped.status == "error" and stopped.of("execution_interrupted") and 0 < len(kept) < 4
    assert "to go on, queue the same graph with resume_from set to stopped" in server.log.read_text()
    on = server.run(workflow(root, "3_long_video_in_bounded_memory", out_folder="", resume_from="stopped", **asked))
    assert on.status == "success"
    whole = server.run(workflow(root, "3_long_video_in_bounded_memory", out_folder="whole", **asked))
    assert whole.status == "success" and len(chunks(folder)) == 4
    assert chunks(folder) == chunks(server.output / "whole")
    print(sorted(p.name for p in folder.iterdir()), server.log.read_text()[-12000:])
    assert len(on.texts) < len(whole.texts)   # one a pass
    (resumed,), (report,) = on.output("report"), whole.output("report")
    assert decided(resumed) == decided(report)


def test_what_is_wrong_comes_back_with_the_node(server, root):
    told = server.run(workflow(root, "3_long_video_in_bounded_memory", resume_from="nowhere", out_folder=""))
    (error,) = told.of("execution_error")
    assert told.status == "error" and error["node_type"] == "FlowCache_ChunkedARSampler"
    assert "nowhere" in error["exception_message"]
    wrong = workflow(root, "1_first_video")
    wrong[number_of(wrong, "FlowCache_Apply")]["inputs"]["preset"] = "warp"
    with pytest.raises(AssertionError, match="value_not_in_list"):
        server.run(wrong)


def test_ten_prompts_leave_no_memory_behind(server, root):
    after = []
    for seed in range(100, 110):
        assert server.run(workflow(root, "1_first_video", seed, steps=2)).status == "success"
        after.append(server.megabytes())
    assert after[9] <= after[2] + FREE_MB, [round(mb) for mb in after]


def test_templates_blueprint_and_languages_are_served(server, root):
    names = server.get("/workflow_templates")[servers.PACK]
    assert sorted(names) == sorted(path.stem for path in (root / "workflows").glob("*.json"))
    for name in names:
        assert json.loads(server.ask(f"/api/workflow_templates/{servers.PACK}/{name}.json"))["nodes"]
    found = {number: entry for number, entry in server.get("/global_subgraphs").items()
             if entry["info"]["node_pack"] == f"custom_nodes.{servers.PACK}"}
    (number,) = found
    assert json.loads(server.get(f"/global_subgraphs/{number}")["data"])["definitions"]["subgraphs"]
    assert "FlowCache_Apply" in server.get("/i18n")["zh"]["nodeDefs"]


@pytest.mark.parametrize("form", ["api", ""])
def test_comfy_cli_runs_both_forms(server, root, form, tmp_path):
    tool = next((path for path in (Path(name).expanduser() for name in CLI if name) if path.exists()), None)
    if tool is None:
        pytest.skip("COMFY-CLI IS NOT HERE, running workflows with it was not checked: install comfy-cli or name it "
                    "in COMFY_CLI")
    whole = json.loads((root / "workflows" / form / "1_first_video.json").read_text(encoding="utf-8"))
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(shortened(whole)))
    before = set((server.output / "video").glob("*.mp4"))
    done = subprocess.run([str(tool), "run", "--workflow", str(path), "--wait", "--json", "--host", "127.0.0.1",
                           "--port", str(server.port), "--timeout", "120"], capture_output=True, text=True,
                          timeout=240, env={**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(set((server.output / "video").glob("*.mp4")) - before) == 1


def shortened(whole: dict) -> dict:
    """Either form of the first workflow, with fewer steps of a shorter video."""
    nodes = whole.get("nodes")
    if nodes is None:
        (make,) = (n for n in whole.values() if n["class_type"] == "FlowCache_ChunkedARSampler")
        make["inputs"].update(steps=3, length=9, seed=11)
        return whole
    (make,) = (n for n in nodes if n["type"] == "FlowCache_ChunkedARSampler")
    values = make["widgets_values"]
    assert values[:3] == [1, "fixed", 0] and values[7] == 93   # seed and what becomes of it, steps; length
    values[0], values[2], values[7] = 12, 3, 9
    return whole
