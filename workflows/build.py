"""The files of the example workflows, made from their descriptions.

It needs ComfyUI for the order of widgets: `tests/nodes/test_workflows.py` says when a file is stale, and with
`FLOWCACHE_WRITE=1` before it writes them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .blueprint import NAME, blueprint
from .canvas import Canvas
from .demo_graphs import DEMO_GRAPHS
from .graph import NOTE, Graph, check, is_link, sockets
from .real_graphs import REAL_GRAPHS

ROOT = Path(__file__).parents[1]
GRAPHS = {graph.name: graph for graph in (*DEMO_GRAPHS, *REAL_GRAPHS)}


def api(graph: Graph, classes: Mapping[str, Any]) -> dict[str, dict]:
    """As `POST /prompt` takes it."""
    check(graph, classes)
    ids = graph.ids()
    prompt = {}
    for name, node in graph.nodes.items():
        if node.kind == NOTE:
            continue
        inputs = {}
        for socket in sockets(classes[node.kind]):
            value = node.inputs.get(socket.name, socket.default if socket.widget else None)
            if is_link(value):
                inputs[socket.name] = [str(ids[value[0]]), value[1]]
            elif value is not None:
                inputs[socket.name] = value
        title = node.title or getattr(classes[node.kind], "DISPLAY_NAME", None) or name.replace("_", " ")
        prompt[str(ids[name])] = {"inputs": inputs, "class_type": node.kind, "_meta": {"title": title}}
    return prompt


def files(classes: Mapping[str, Any]) -> dict[Path, str]:
    """What every file should hold, by path."""
    made: dict[Path, Any] = {ROOT / "subgraphs" / f"{NAME}.json": blueprint(classes)}
    for name, graph in GRAPHS.items():
        made[ROOT / "workflows" / f"{name}.json"] = Canvas(graph, classes).to_json()
        made[ROOT / "workflows" / "api" / f"{name}.json"] = api(graph, classes)
    return {path: json.dumps(data, indent=1) + "\n" for path, data in made.items()}
