"""Tests that need ComfyUI. They are collected where COMFYUI_PATH names a checkout, in a Python that has its
requirements (`dev.py test` sees to both), and then they fail, not skip, where the host does not start."""

import asyncio
import os
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.nodes import host

HERE = Path(__file__).resolve().parent
CHECKOUT = os.environ.get("COMFYUI_PATH")
collect_ignore_glob = [] if CHECKOUT else ["test_*.py"]
if CHECKOUT:
    BASE = tempfile.TemporaryDirectory(prefix="flowcache-host-")
    host.start(Path(CHECKOUT), Path(BASE.name))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("comfy")
    if "browser" not in config.option.markexpr:
        shown = [item for item in items if item.get_closest_marker("browser")]
        items[:] = [item for item in items if item not in shown]
        if shown:
            config.hook.pytest_deselected(items=shown)


@pytest.fixture(scope="session")
def base() -> Path:
    """The host's base folder: its models, input, output and user folders are in it."""
    return Path(BASE.name)


@pytest.fixture(scope="session")
def version() -> tuple[int, ...]:
    """Of the host, as in (0, 27, 0)."""
    from comfyui_version import __version__

    return tuple(int(part) for part in __version__.split("."))


@pytest.fixture(scope="session")
def builtins(base: Path) -> None:
    """The host's own nodes are registered."""
    host.load_builtins()


@pytest.fixture(scope="session")
def pack(root: Path, builtins: None) -> ModuleType:
    """The whole pack, loaded and registered by the host; its modules are attributes, as in `pack.nodes.bridge`."""
    return host.load_pack(root)


@pytest.fixture(scope="session")
def node_classes(pack: ModuleType) -> dict[str, type]:
    """The pack's nodes by id."""
    extension = asyncio.run(pack.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture
def queue(pack: ModuleType) -> host.Queue:
    """A queue with an empty cache, for prompts in the API format."""
    return host.Queue()
