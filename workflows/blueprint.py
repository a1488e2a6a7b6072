"""The blueprint that the node library offers: the chain from a model to a video, as a subgraph."""

import uuid
from collections.abc import Mapping
from typing import Any

from .canvas import WIDTH, Canvas
from .graph import Graph, Node, outputs, sockets

NAME = "AR Video (FlowCache)"
WORDS = "From a model of Load AR Video Model to a video, chunk by chunk and accelerated by a preset."
CHAIN = Graph("ar_video", {
    "fast": Node("FlowCache_Apply", 0, {"preset": "balanced"}),
    "make": Node("FlowCache_ChunkedARSampler", 1, {"model": ("fast", 0), "length": 93}),
    "join": Node("CreateVideo", 2, {"images": ("make", 2), "fps": 16.0})})
# what the subgraph shows: names of its own, and the inner node and socket
INPUTS = {"model": ("fast", "model"), "positive": ("make", "positive"), "negative": ("make", "negative"),
          "vae": ("make", "vae"), "clip": ("make", "clip"), "preset": ("fast", "preset"), "seed": ("make", "seed"),
          "length": ("make", "length"), "prompts": ("make", "prompts"), "fps": ("join", "fps")}
OUTPUTS = {"VIDEO": ("join", 0), "report": ("make", 1), "LATENT": ("make", 0)}
FROM, TO = -10, -20   # ids of a subgraph's own ends
ROW = 20


def blueprint(classes: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow of one node, and the subgraph that it is."""
    inner = _subgraph(Canvas(CHAIN, classes), classes)
    shown = {name: next(s for s in sockets(classes[CHAIN.nodes[node].kind]) if s.name == socket)
             for name, (node, socket) in INPUTS.items()}
    widgets = {name: CHAIN.nodes[INPUTS[name][0]].inputs.get(INPUTS[name][1], socket.default)
               for name, socket in shown.items() if socket.widget}
    node = {"id": 1, "type": inner["id"], "pos": [0, 0], "size": [400, 340], "flags": {}, "order": 0, "mode": 0,
            "inputs": [{"name": name, "type": socket.kind, "link": None, **({"shape": 7} if socket.optional else {}),
                        **({"widget": {"name": name}} if name in widgets else {})} for name, socket in shown.items()],
            "outputs": [{"name": entry["name"], "type": entry["type"], "links": None} for entry in inner["outputs"]],
            "title": NAME, "properties": {"proxyWidgets": [["-1", name] for name in widgets]},
            "widgets_values": list(widgets.values())}
    return {"revision": 0, "last_node_id": len(CHAIN.nodes), "last_link_id": 0, "nodes": [node], "links": [],
            "version": 0.4, "definitions": {"subgraphs": [inner]}, "extra": {}}


def _subgraph(canvas: Canvas, classes: Mapping[str, Any]) -> dict[str, Any]:
    nodes = {name: next(n for n in canvas.nodes if n["id"] == number) for name, number in canvas.ids.items()}
    links, ins, outs = [_link(*link) for link in canvas.links], [], []
    for slot, (name, (node, socket)) in enumerate(INPUTS.items()):
        target = next(n for n, given in enumerate(nodes[node]["inputs"]) if given["name"] == socket)
        given = nodes[node]["inputs"][target]
        given["link"] = len(links) + 1
        links.append(_link(len(links) + 1, FROM, slot, nodes[node]["id"], target, given["type"]))
        ins.append(_end(name, given["type"], len(links), slot, -WIDTH / 2))
    for slot, (name, (node, number)) in enumerate(OUTPUTS.items()):
        kind = outputs(classes[CHAIN.nodes[node].kind])[number][0]
        links.append(_link(len(links) + 1, nodes[node]["id"], number, TO, slot, kind))
        made = nodes[node]["outputs"][number]
        made["links"] = [*(made["links"] or []), len(links)]
        outs.append(_end(name, kind, len(links), slot, 3.6 * WIDTH))
    return {"id": _uuid(NAME), "version": 1, "revision": 0, "config": {}, "name": NAME,
            "state": {"lastGroupId": 0, "lastNodeId": len(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
            "inputNode": {"id": FROM, "bounding": [-WIDTH / 2, 100, 120, 40 + ROW * len(ins)]},
            "outputNode": {"id": TO, "bounding": [3.6 * WIDTH, 100, 120, 40 + ROW * len(outs)]},
            "inputs": ins, "outputs": outs, "widgets": [], "nodes": list(nodes.values()), "groups": [], "links": links,
            "extra": {}, "category": "Video", "description": WORDS}


def _link(number: int, source: int, output: int, target: int, slot: int, kind: str) -> dict[str, Any]:
    return {"id": number, "origin_id": source, "origin_slot": output, "target_id": target, "target_slot": slot,
            "type": kind}


def _end(name: str, kind: str, link: int, row: int, left: float) -> dict[str, Any]:
    return {"id": _uuid(f"{NAME} {name}"), "name": name, "type": kind, "linkIds": [link],
            "pos": [left + 100, 120 + ROW * row]}


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))
