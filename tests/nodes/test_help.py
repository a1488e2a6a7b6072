"""Help pages and translations: one for every node, of the schemas as they are, quoting what the code really says."""

import ast
import importlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.nodes import help_files

SECTIONS = ("Inputs", "Turn it up, turn it down", "Workflows", "What can go wrong")
FAULT = re.compile(r"^- \*(.+?)\*", re.MULTILINE | re.DOTALL)
LEAST = 20   # letters that a message must say itself to be told from another


@pytest.fixture(scope="module")
def registries(pack: ModuleType) -> dict[str, Any]:
    core = f"{pack.__name__}.flowcache_core"
    places = {"policies": ("reuse", "POLICIES"), "methods": ("kv", "SCORERS"),
              "sparse attention": ("attention", "SPARSE")}
    return {name: getattr(importlib.import_module(f"{core}.{folder}"), registry)
            for name, (folder, registry) in places.items()}


def is_fresh(path: Path, text: str) -> bool:
    if os.environ.get("FLOWCACHE_WRITE"):
        path.write_text(text, encoding="utf-8")
    return path.read_text(encoding="utf-8") == text


def pages(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in (root / "web" / "docs").glob("*.md")}


def test_every_node_has_a_page_and_every_page_a_node(root: Path, node_classes: dict[str, type]) -> None:
    assert set(pages(root)) == set(node_classes)


def test_tables_are_those_of_the_schemas(root: Path, node_classes: dict[str, type], registries: dict[str, Any]) -> None:
    for name, path in {**pages(root), "": root / "README.md"}.items():
        text = path.read_text(encoding="utf-8")
        made = help_files.rewritten(text, node_classes.get(name), root, registries, node_classes)
        assert is_fresh(path, made), f"{path.name} is stale: run this test with FLOWCACHE_WRITE=1"


def test_pages_have_their_sections_and_begin_with_two_sentences(root: Path, node_classes: dict[str, type]) -> None:
    for name, path in pages(root).items():
        title, lead, *_ = path.read_text(encoding="utf-8").split("\n\n")
        assert title == f"# {node_classes[name].GET_SCHEMA().display_name}"
        assert len(re.findall(r"\.(?:\s|$)", lead)) == 2, f"{name}: {lead}"
        assert tuple(re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE))[:4] == SECTIONS, name
        assert "<!-- inputs -->" in path.read_text(encoding="utf-8")


def spoken(node: ast.AST) -> list[str]:
    """The patterns of what an expression may say: values are anything."""
    if isinstance(node, ast.Constant):
        return [re.sub(r"\\{\w+\\}", ".+", re.escape(node.value))] if isinstance(node.value, str) else [".+"]
    if isinstance(node, ast.JoinedStr):
        parts = [spoken(part) for part in node.values]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [spoken(node.left), spoken(node.right)]
    elif isinstance(node, ast.IfExp):
        return spoken(node.body) + spoken(node.orelse)
    else:
        return [".*"]
    return ["".join(choice) for choice in itertools.product(*parts)]


def messages(root: Path) -> Iterator[re.Pattern]:
    for folder in ("nodes", "flowcache_core"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
                    yield from (re.compile(said, re.DOTALL) for said in spoken(node)
                                if len(said.replace("\\", "").replace(".+", "").replace(".*", "")) >= LEAST)


def test_pages_quote_what_the_code_says(root: Path) -> None:
    known = list(messages(root))
    for name, path in pages(root).items():
        _, _, wrong = path.read_text(encoding="utf-8").partition("## What can go wrong")
        quoted = [" ".join(fault.split()) for fault in FAULT.findall(wrong)]
        assert quoted, name
        unknown = [fault for fault in quoted if not any(message.fullmatch(fault) for message in known)]
        assert not unknown, f"{name}: no such sentence in the code: {unknown}"


def test_english_names_are_those_of_the_schemas(root: Path, node_classes: dict[str, type]) -> None:
    text = json.dumps(help_files.english(node_classes), indent=2, ensure_ascii=False) + "\n"
    assert is_fresh(root / "locales" / "en" / "nodeDefs.json", text), "stale: run this test with FLOWCACHE_WRITE=1"


def shape(names: Any) -> Any:
    return {key: shape(value) for key, value in names.items()} if isinstance(names, dict) else str


@pytest.mark.parametrize("file", ["nodeDefs", "main"])
def test_chinese_names_the_same_things(root: Path, file: str) -> None:
    english, chinese = (json.loads((root / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))
                        for language in ("en", "zh"))
    assert shape(chinese) == shape(english)
    for tooltip in leaves(chinese, "tooltip", "description"):
        assert re.search(r"[\u4e00-\u9fff]", tooltip), tooltip


def leaves(names: dict[str, Any], *keys: str) -> Iterator[str]:
    for key, value in names.items():
        if isinstance(value, dict):
            yield from leaves(value, *keys)
        elif key in keys:
            yield value


def test_the_host_finds_the_translations(root: Path, node_classes: dict[str, type], base: Path) -> None:
    from app.custom_node_manager import CustomNodeManager

    link = base / "custom_nodes" / "flowcache"
    link.symlink_to(root)
    try:
        found = CustomNodeManager().build_translations()
    finally:
        link.unlink()
    assert set(node_classes) <= set(found["zh"]["nodeDefs"]) & set(found["en"]["nodeDefs"])
    assert "nodeCategories" in found["zh"]
