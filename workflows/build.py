"""Writes the example workflows from `graphs.py`, in the form of the canvas and in that of the API.

It needs ComfyUI for the order of widgets: `COMFYUI_PATH=... pytest tests/nodes/test_workflows.py` says when a file is
stale, and with `FLOWCACHE_WRITE=1` before it writes them.
"""

import json
from pathlib import Path
from typing import Any

from .graphs import GRAPHS, Graph

FOLDER = Path(__file__).parent
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
COLUMN, GAP, ROW = 430, 40, 30   # pixels
TITLE = 90


def inputs_of(node: type) -> list[tuple[str, Any, dict[str, Any]]]:
    """Name, type and options of every input, in the order in which the canvas shows them."""
    declared = node.INPUT_TYPES()
    return [(name, spec[0], spec[1] if len(spec) > 1 else {})
            for group in ("required", "optional") for name, spec in declared.get(group, {}).items()]


def is_widget(kind: Any) -> bool:
    return isinstance(kind, (list, tuple)) or kind in WIDGETS


def default(kind: Any, options: dict[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, (list, tuple)) else options.get("options", [])
    return next(iter(choices), {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(str(kind)))


def filled(graph: Graph, nodes: dict[str, type]) -> dict[str, dict[str, Any]]:
    """Every node with the value of every widget, and its links."""
    made = {}
    for name, (kind, given) in graph.items():
        known = inputs_of(nodes[kind])
        unknown = set(given) - {input_name for input_name, *_ in known}
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}")
        made[name] = {input_name: given.get(input_name, default(type_, options)) for input_name, type_, options in known
                      if input_name in given or is_widget(type_)}
    return made


def api_form(graph: Graph, nodes: dict[str, type]) -> dict[str, Any]:
    """As `POST /prompt` takes it."""
    number = {name: str(n) for n, name in enumerate(graph, 1)}
    return {number[name]: {
        "class_type": graph[name][0], "_meta": {"title": name.replace("_", " ")},
        "inputs": {key: [number[value[0]], value[1]] if isinstance(value, tuple) else value
                   for key, value in inputs.items()}}
        for name, inputs in filled(graph, nodes).items()}


def depth(graph: Graph, name: str) -> int:
    """The column of a node: one behind the last of those that it reads."""
    return max((1 + depth(graph, value[0]) for value in graph[name][1].values() if isinstance(value, tuple)), default=0)


def canvas_form(graph: Graph, nodes: dict[str, type]) -> dict[str, Any]:
    """As the canvas saves it."""
    number = {name: n for n, name in enumerate(graph, 1)}
    links: list[list[Any]] = []
    drawn, bottom = [], {}
    for name, inputs in filled(graph, nodes).items():
        kind = nodes[graph[name][0]]
        column = depth(graph, name)
        sockets, widgets = _sockets(kind, inputs, number, links, number[name])
        height = TITLE + ROW * (len(widgets) + max(len(sockets), len(kind.RETURN_TYPES)))
        top = bottom.get(column, 0)
        bottom[column] = top + height + 2 * GAP
        drawn.append({"id": number[name], "type": graph[name][0], "pos": [column * (COLUMN + GAP), top],
                      "size": [COLUMN, height], "flags": {}, "order": number[name] - 1, "mode": 0, "inputs": sockets,
                      "outputs": _outputs(kind),
                      "properties": {"Node name for S&R": graph[name][0]}, "widgets_values": widgets})
    for link in links:
        source = drawn[link[1] - 1]["outputs"][link[2]]
        source["links"].append(link[0])
        link.append(source["type"])
    return {"last_node_id": len(drawn), "last_link_id": len(links), "nodes": drawn, "links": links, "groups": [],
            "config": {}, "extra": {}, "version": 0.4}


def _outputs(kind: type) -> list[dict[str, Any]]:
    labels = getattr(kind, "RETURN_NAMES", kind.RETURN_TYPES)
    return [{"name": label, "type": str(type_), "links": []}
            for label, type_ in zip(labels, kind.RETURN_TYPES, strict=True)]


def _sockets(kind: type, inputs: dict[str, Any], number: dict[str, int], links: list[list[Any]],
             own: int) -> tuple[list[dict[str, Any]], list[Any]]:
    sockets, widgets = [], []
    for name, type_, options in inputs_of(kind):
        if is_widget(type_):
            widgets.append(inputs[name])
            if options.get("control_after_generate"):
                widgets.append("fixed")   # the canvas's own widget behind a seed
            continue
        link = None
        if name in inputs:
            source, slot = inputs[name]
            link = len(links) + 1
            links.append([link, number[source], slot, own, len(sockets)])
        sockets.append({"name": name, "type": str(type_), "link": link})
    return sockets, widgets


def files(nodes: dict[str, type]) -> dict[Path, str]:
    """What every workflow file should hold."""
    made: dict[Path, str] = {}
    for name, graph in GRAPHS.items():
        made[FOLDER / f"{name}.json"] = json.dumps(canvas_form(graph, nodes), indent=1) + "\n"
        made[FOLDER / "api" / f"{name}.json"] = json.dumps(api_form(graph, nodes), indent=1) + "\n"
    return made
