"""A workflow as the canvas of ComfyUI saves it."""

from collections.abc import Mapping
from typing import Any

from .graph import NOTE, Graph, Node, Socket, check, is_link, outputs, sockets

WIDTH, BETWEEN, TOP, GAP = 360, 60, 80, 60   # pixels: of a node, between columns, above the first, between nodes
TITLE, SOCKET, WIDGET, TALL = 30, 20, 24, 60   # of a node's parts; a text of several lines takes TALL more
SHOWN = {"FlowCache_Report": 380, "FlowCache_CompareRuns": 380, "FlowCache_PlanPreview": 380, "SaveVideo": 360,
         "FlowCache_ChunkedARSampler": 240}   # what a node shows below its widgets
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}


class Canvas:
    """The nodes, and the links `[id, from node, output, to node, input, type]`."""

    def __init__(self, graph: Graph, classes: Mapping[str, Any]) -> None:
        check(graph, classes)
        self.graph, self.classes, self.ids = graph, classes, graph.ids()
        self.links: list[list[Any]] = []
        self._bottoms: dict[int, int] = {}
        self.nodes = [self._node(name, node) for name, node in graph.nodes.items()]
        for node in self.nodes:
            for slot, output in enumerate(node["outputs"]):
                output["links"] = [link[0] for link in self.links if link[1:3] == [node["id"], slot]] or None

    def to_json(self) -> dict[str, Any]:
        return {"id": self.graph.name, "revision": 0, "last_node_id": len(self.nodes),
                "last_link_id": len(self.links), "nodes": self.nodes, "links": self.links, "groups": [], "config": {},
                "extra": {"ds": {"scale": 0.7, "offset": [60, 60]}}, "version": 0.4}

    def _node(self, name: str, node: Node) -> dict[str, Any]:
        number = self.ids[name]
        made = {"id": number, "type": node.kind, "pos": [0, 0], "size": [WIDTH, 0], "flags": {}, "order": number - 1,
                "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": []}
        if node.title:
            made["title"] = node.title
        if node.kind == NOTE:
            self._place(made, node.column, note_height(node.text))
            return {**made, "widgets_values": [node.text], **NOTE_COLOURS}
        own = sockets(self.classes[node.kind])
        made["properties"] = {"Node name for S&R": node.kind, **({"models": list(node.models)} if node.models else {})}
        made["inputs"] = [self._input(number, slot, socket, node.inputs.get(socket.name))
                          for slot, socket in enumerate(sorted(own, key=lambda s: s.widget))]
        made["outputs"] = [{"name": label, "type": kind, "links": None} for kind, label in
                           outputs(self.classes[node.kind])]
        made["widgets_values"] = widget_values(own, node.inputs)
        self._place(made, node.column, height(node.kind, own, made))
        return made

    def _input(self, number: int, slot: int, socket: Socket, value: Any) -> dict[str, Any]:
        made: dict[str, Any] = {"name": socket.name, "type": socket.kind, "link": None}
        if socket.optional:
            made["shape"] = 7
        if socket.widget:
            made["widget"] = {"name": socket.name}
        if is_link(value):
            made["link"] = len(self.links) + 1
            self.links.append([made["link"], self.ids[value[0]], value[1], number, slot, socket.kind])
        return made

    def _place(self, made: dict[str, Any], column: int, tall: int) -> None:
        top = self._bottoms.get(column, TOP)
        made["pos"], made["size"] = [column * (WIDTH + BETWEEN), top], [WIDTH, tall]
        self._bottoms[column] = top + tall + GAP


def note_height(text: str) -> int:
    lines = sum(1 + len(line) // 46 for line in text.split("\n"))
    return 50 + 21 * lines


def height(kind: str, own: list[Socket], made: dict[str, Any]) -> int:
    rows = max(len([s for s in own if not s.widget]), len(made["outputs"]))
    tall = sum(bool(s.options.get("multiline")) for s in own)
    return 16 + SOCKET * rows + WIDGET * len(made["widgets_values"]) + TALL * tall + SHOWN.get(kind, 0)


def widget_values(own: list[Socket], inputs: Mapping[str, Any]) -> list[Any]:
    """By position, as the canvas saves them."""
    values: list[Any] = []
    for socket in own:
        if socket.widget:
            given = inputs.get(socket.name, socket.default)
            values += [socket.default if is_link(given) else given, *(["fixed"] if socket.followed else [])]
    return values
