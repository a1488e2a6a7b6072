"""The example workflows: fresh, whole, the same graph in both forms, and those of the demo run."""

import asyncio
import importlib.util
import json
import os
import sys

import pytest

REAL = ("skyreels_v2_df", "self_forcing")   # need files that no test has


@pytest.fixture(scope="module")
def build(root, pack):
    if "flowcache_workflows" not in sys.modules:
        for name, path in (("flowcache_workflows", None), ("flowcache_workflows.graphs", "graphs.py"),
                           ("flowcache_workflows.build", "build.py")):
            spec = (importlib.util.spec_from_file_location(name, root / "workflows" / path) if path else
                    importlib.util.spec_from_loader(name, None, is_package=True))
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            if path:
                spec.loader.exec_module(module)
    return sys.modules["flowcache_workflows.build"]


@pytest.fixture(scope="module")
def host_nodes(pack, version):
    if version < (0, 21):
        pytest.skip("the widgets of older hosts' own nodes differ")
    import nodes

    return nodes.NODE_CLASS_MAPPINGS


def test_every_file_is_what_its_description_makes(build, host_nodes, version):
    if version < (0, 27):
        pytest.skip("written for the widgets of the newest host")
    for path, text in build.files(host_nodes).items():
        if os.environ.get("FLOWCACHE_WRITE"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text, f"{path.name} is stale: run this test with FLOWCACHE_WRITE=1"


def test_no_file_is_left_without_a_description(build, root):
    expected = {f"{name}.json" for name in build.GRAPHS}
    assert {p.name for p in (root / "workflows").glob("*.json")} == expected
    assert {p.name for p in (root / "workflows" / "api").glob("*.json")} == expected


def test_both_forms_are_the_same_graph(build, root, host_nodes):
    for name in build.GRAPHS:
        canvas = json.loads((root / "workflows" / f"{name}.json").read_text())
        api = json.loads((root / "workflows" / "api" / f"{name}.json").read_text())
        ends = {link[0]: [str(link[1]), link[2]] for link in canvas["links"]}
        assert {str(node["id"]): node["type"] for node in canvas["nodes"]} == {
            key: node["class_type"] for key, node in api.items()}
        for node in canvas["nodes"]:
            inputs = api[str(node["id"])]["inputs"]
            linked = {s["name"]: ends[s["link"]] for s in node["inputs"] if s["link"] is not None}
            assert linked == {key: value for key, value in inputs.items() if isinstance(value, list)}
            written = [value for value in node["widgets_values"] if value != "fixed"]
            assert written == [value for value in inputs.values() if not isinstance(value, list)]


def test_the_demos_validate_and_the_others_lack_only_their_files(build, root, host_nodes):
    import execution

    for name in build.GRAPHS:
        prompt = json.loads((root / "workflows" / "api" / f"{name}.json").read_text())
        valid, error, _, faults = asyncio.run(execution.validate_prompt(name, prompt, None))
        if name not in REAL:
            assert valid, (name, error, faults)
            continue
        kinds = {(fault["type"], fault["extra_info"]["input_name"]) for node in faults.values()
                 for fault in node["errors"]}
        assert kinds <= {("value_not_in_list", n) for n in ("file", "clip_name", "vae_name")}


@pytest.mark.parametrize("name", ["1_first_video", "3_long_video_in_bounded_memory", "4_prompt_per_chunk"])
def test_a_demo_workflow_makes_its_video(name, root, queue, base, host_nodes):
    prompt = json.loads((root / "workflows" / "api" / f"{name}.json").read_text())
    for node in prompt.values():
        if node["class_type"] == "FlowCache_ChunkedARSampler":
            node["inputs"].update(steps=4, length=45 if "prompt" not in name else 57)
    before = set((base / "output" / "video").glob("*.mp4"))
    queue.run(prompt)
    (made,) = set((base / "output" / "video").glob("*.mp4")) - before
    assert made.stat().st_size > 1000
