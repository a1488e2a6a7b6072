"""The example workflows: fresh, whole, legible, the same graph in both forms, and those of the demo run."""

import asyncio
import importlib.util
import json
import os
import sys

import pytest

NOTE = "MarkdownNote"
TITLE = 30   # pixels that a node's title stands above it
LONG = "3_long_video_in_bounded_memory"
OF_FILES = {"file", "clip_name", "vae_name", "unet_name"}   # inputs that name what no test has
PICTURE_LIMIT = 25_000   # bytes


@pytest.fixture(scope="module")
def build(root, pack):
    """The builder's module; its folder is no package of the pack."""
    name = "flowcache_workflows"
    if name not in sys.modules:
        sys.modules[name] = package = importlib.util.module_from_spec(
            importlib.util.spec_from_loader(name, None, is_package=True))
        package.__path__ = [str(root / "workflows")]
    return importlib.import_module(f"{name}.build")


@pytest.fixture(scope="module")
def host_nodes(pack, version):
    if version < (0, 21):
        pytest.skip("the widgets of older hosts' own nodes differ")
    import nodes

    return nodes.NODE_CLASS_MAPPINGS


def read(root, name: str, api: bool = False) -> dict:
    return json.loads((root / "workflows" / ("api" if api else "") / f"{name}.json").read_text(encoding="utf-8"))


def names(root) -> list[str]:
    return sorted(path.stem for path in (root / "workflows").glob("*.json"))


def test_every_file_is_what_its_description_makes(build, host_nodes, version):
    if version < (0, 27):
        pytest.skip("written for the widgets of the newest host")
    for path, text in build.files(host_nodes).items():
        if os.environ.get("FLOWCACHE_WRITE"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run this test with FLOWCACHE_WRITE=1"


def test_every_template_has_its_picture(root):
    pictures = {path.stem: path.read_bytes() for path in (root / "workflows").glob("*.jpg")}
    assert sorted(pictures) == names(root), "make pictures with: FLOWCACHE_WRITE=1 python3 dev.py test -m browser"
    for name, data in pictures.items():
        assert data[:2] == b"\xff\xd8" and len(data) <= PICTURE_LIMIT, name


def test_no_file_is_left_without_a_description(build, root):
    assert set(names(root)) == set(build.GRAPHS)
    assert {path.stem for path in (root / "workflows" / "api").glob("*.json")} == set(build.GRAPHS)


def test_unknown_inputs_are_refused(build, host_nodes):
    graph = sys.modules["flowcache_workflows.graph"]
    with pytest.raises(ValueError, match="has no input"):
        build.api(graph.Graph("odd", {"no": graph.Node("CLIPTextEncode", 0, {"txet": ""})}), host_nodes)


def test_both_forms_are_the_same_graph(build, root, host_nodes):
    for name in build.GRAPHS:
        canvas, api = read(root, name), read(root, name, api=True)
        ends = {link[0]: [str(link[1]), link[2]] for link in canvas["links"]}
        drawn = [node for node in canvas["nodes"] if node["type"] != NOTE]
        assert {str(node["id"]): node["type"] for node in drawn} == {n: made["class_type"] for n, made in api.items()}
        for node in drawn:
            inputs = api[str(node["id"])]["inputs"]
            linked = {s["name"]: ends[s["link"]] for s in node["inputs"] if s["link"] is not None}
            assert linked == {key: value for key, value in inputs.items() if isinstance(value, list)}
            values = iter([value for value in node["widgets_values"] if value != "fixed"])
            widgets = {s["name"]: next(values) for s in node["inputs"] if "widget" in s}
            assert next(values, None) is None
            assert {key: value for key, value in widgets.items() if key not in linked} == {
                key: value for key, value in inputs.items() if not isinstance(value, list)}


def test_every_node_of_the_pack_is_in_a_workflow(root, node_classes):
    used = {node["class_type"] for name in names(root) for node in read(root, name, api=True).values()}
    assert set(node_classes) <= used and len(node_classes) >= 13
    assert "FlowCache_Report" in {node["class_type"] for node in read(root, "1_first_video", api=True).values()}


def test_canvas_is_legible(root):
    for name in names(root):
        nodes = read(root, name)["nodes"]
        (text,) = (node["widgets_values"][0] for node in nodes if node["type"] == NOTE)
        assert 80 < len(text) < 900
        boxes = [(node["pos"][0], node["pos"][1] - TITLE, node["pos"][0] + node["size"][0],
                  node["pos"][1] + node["size"][1]) for node in nodes]
        for n, (left, top, right, bottom) in enumerate(boxes):
            for left2, top2, right2, bottom2 in boxes[:n]:
                assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, f"{name}: nodes overlap"
        place = {node["id"]: node["pos"][0] for node in nodes}
        assert all(place[source] <= place[target] for _, source, _, target, *_ in read(root, name)["links"])


def test_blueprint_is_whole(build, root, host_nodes):
    (path,) = (root / "subgraphs").glob("*.json")
    whole = json.loads(path.read_text(encoding="utf-8"))
    (inner,), (node,) = whole["definitions"]["subgraphs"], whole["nodes"]
    assert node["type"] == inner["id"] and path.stem == inner["name"]
    kinds = {n["id"]: host_nodes[n["type"]] for n in inner["nodes"]}
    sockets = {n["id"]: n for n in inner["nodes"]}
    for link in inner["links"]:
        if link["origin_id"] in kinds:
            assert kinds[link["origin_id"]].RETURN_TYPES[link["origin_slot"]] == link["type"]
            assert link["id"] in sockets[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        else:
            assert link["id"] in inner["inputs"][link["origin_slot"]]["linkIds"]
        if link["target_id"] in kinds:
            given = sockets[link["target_id"]]["inputs"][link["target_slot"]]
            assert given["link"] == link["id"] and given["type"] == link["type"]
        else:
            assert link["id"] in inner["outputs"][link["target_slot"]]["linkIds"]
    joined = {s["name"] for n in inner["nodes"] for s in n["inputs"] if s["link"] is not None}
    assert {"model", "positive", "negative", "vae", "images"} <= joined
    assert [s["name"] for s in node["inputs"]] == [s["name"] for s in inner["inputs"]]
    assert len(node["widgets_values"]) == len(node["properties"]["proxyWidgets"])


def test_the_demos_validate_and_the_others_lack_only_their_files(build, root, host_nodes):
    import execution

    for name in build.GRAPHS:
        prompt = read(root, name, api=True)
        valid, error, _, faults = asyncio.run(execution.validate_prompt(name, prompt, None))
        if "demo (bundled)" in json.dumps(prompt):
            assert valid, (name, error, faults)
            continue
        kinds = {(fault["type"], fault["extra_info"]["input_name"]) for node in faults.values()
                 for fault in node["errors"]}
        assert kinds and kinds <= {("value_not_in_list", n) for n in OF_FILES}, name


@pytest.mark.parametrize("name", ["1_first_video", "2_uncached_and_accelerated", LONG, "4_prompt_per_chunk",
                                  "5_extend", "6_custom_sampling"])
def test_a_demo_workflow_makes_its_video(name, root, queue, base, host_nodes):
    prompt = read(root, name, api=True)
    length = {"4_prompt_per_chunk": 57, "5_extend": 21, LONG: 81}.get(name, 33)
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"].update(steps=4)
        if isinstance(node["inputs"].get("length"), int):
            node["inputs"].update(length=length)
        if "estimate_time" in node["inputs"]:
            node["inputs"].update(estimate_time=False)
    before = set((base / "output" / "video").glob("*.mp4"))
    told = queue.run(prompt)
    (made,) = set((base / "output" / "video").glob("*.mp4")) - before
    assert made.stat().st_size > 1000
    reports = [shown["report"][0] for shown in told.values() if "report" in shown]
    assert len(reports) == (name != "6_custom_sampling")   # SamplerCustomAdvanced hands no report on
    assert all(r["summary"]["chunk_steps"] == sum(row["steps"] for row in r["chunks"]) for r in reports)
    assert all(len(r["chunks"]) == (6 if name == "5_extend" else (length + 3) // 12) for r in reports)
