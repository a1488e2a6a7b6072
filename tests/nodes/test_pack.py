"""The pack as the host sees it: loaded by path, its nodes registered, its schemas valid on old and new hosts."""

import logging
from pathlib import Path
from types import ModuleType

import pytest

from tests.nodes import host

PREFIX = "FlowCache"


def test_every_node_is_registered_under_its_permanent_prefix(node_classes: dict[str, type]) -> None:
    import nodes

    assert all(name.startswith(PREFIX) for name in node_classes)
    assert set(node_classes) <= set(nodes.NODE_CLASS_MAPPINGS)


def test_every_input_and_node_says_what_it_is_for(node_classes: dict[str, type]) -> None:
    for name, node in node_classes.items():
        schema = node.GET_SCHEMA()
        assert schema.description, name
        assert schema.category.startswith("FlowCache (AR video)"), name
        silent = [given.id for given in schema.inputs if not given.tooltip]
        assert not silent, f"{name}: no tooltip on {silent}"


def test_file_that_does_not_import_leaves_the_other_nodes(root: Path, pack: ModuleType, tmp_path: Path,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    copy = tmp_path / "pack"
    (copy / "nodes").mkdir(parents=True)
    (copy / "flowcache_core").symlink_to(root / "flowcache_core")
    for path in (root / "__init__.py", *(root / "nodes").rglob("*.py")):
        (copy / path.relative_to(root)).parent.mkdir(exist_ok=True)
        (copy / path.relative_to(root)).write_text(path.read_text())
    (copy / "nodes" / "broken.py").write_text("import a_module_that_no_host_has\n")
    with caplog.at_level(logging.ERROR):
        loaded = host.load_pack(copy)
    assert "nodes/broken.py" in caplog.text
    assert len(loaded.nodes.node_classes()) == len(pack.nodes.node_classes())


def test_queue_runs_the_hosts_own_nodes(queue: host.Queue, base: Path) -> None:
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 7}},
              "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "harness"}}}
    saved = queue.run(prompt)["2"]["images"][0]
    assert (base / "output" / saved["filename"]).is_file()
    assert queue.executed() == ["1", "2"]
    queue.run(prompt)
    assert queue.executed() == []   # cached by the host
    with pytest.raises(host.PromptFailed, match="refused"):
        queue.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})
