"""A workflow described once, and the two files that ComfyUI knows of it: for its canvas, and for its HTTP API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOTE = "MarkdownNote"             # lives on the canvas alone
COLUMN, TOP, GAP = 400, 80, 70    # pixels: between columns, above the first node, between nodes of a column
WIDTH, LINE, SOCKET, HEAD, TALL = 340, 26, 22, 46, 90
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
PICTURES = {"FlowCache_Report": 330, "FlowCache_CompareRuns": 330, "FlowCache_PlanPreview": 330, "SaveVideo": 300}


@dataclass(frozen=True)
class Node:
    """inputs: values of widgets, and links `("name of a node", output number)`; what is left out has its default.
    column: of the canvas, from the left; text: of a note."""

    kind: str
    column: int
    inputs: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    text: str = ""
    height: int = 0


@dataclass(frozen=True)
class Graph:
    """nodes by name; what is computed first comes first."""

    name: str
    nodes: Mapping[str, Node]

    def ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.nodes, 1)}


@dataclass(frozen=True)
class Socket:
    """An input as its node declares it. options: its first choice is the default where none is named."""

    name: str
    kind: str
    default: Any
    widget: bool
    optional: bool
    options: Mapping[str, Any]

    @property
    def followed(self) -> bool:
        """Whether the canvas puts a control of its own behind the widget: what becomes of a seed after a run."""
        return bool(self.options.get("control_after_generate"))


def sockets(node_class: Any) -> list[Socket]:
    """All inputs of a node class of the host, in the order of the canvas."""
    found = []
    for group, declared in node_class.INPUT_TYPES().items():
        for name, spec in declared.items() if group in ("required", "optional") else ():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            choices = kind if isinstance(kind, list) else options.get("options")
            kind = "COMBO" if isinstance(kind, list) else kind
            default = options.get("default", choices[0] if choices else "")
            found.append(Socket(name, kind, default, kind in WIDGETS and not options.get("forceInput"),
                                group == "optional", options))
    return found


def is_link(value: Any) -> bool:
    return isinstance(value, tuple)


def checked(graph: Graph, classes: Mapping[str, Any]) -> None:
    """Raises ValueError for an input that its node does not have."""
    for name, node in graph.nodes.items():
        known = {socket.name for socket in sockets(classes[node.kind])} if node.kind != NOTE else set()
        if set(node.inputs) - known:
            raise ValueError(f"{graph.name}: {name} ({node.kind}) has no input {sorted(set(node.inputs) - known)}")


def api(graph: Graph, classes: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, dict]:
    """As `POST /prompt` takes it. names: display names by kind."""
    checked(graph, classes)
    ids, prompt = graph.ids(), {}
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
        prompt[str(ids[name])] = {"class_type": node.kind, "inputs": inputs,
                                  "_meta": {"title": node.title or names[node.kind]}}
    return prompt


class Canvas:
    """The UI form, built node by node."""

    def __init__(self, graph: Graph, classes: Mapping[str, Any]) -> None:
        checked(graph, classes)
        self.graph, self.classes, self.ids = graph, classes, graph.ids()
        self.links: list[list] = []
        self._heights: dict[int, int] = {}
        self.nodes = [self._node(name, node) for name, node in graph.nodes.items()]
        for node in self.nodes:
            for slot, output in enumerate(node["outputs"]):
                output["links"] = [link[0] for link in self.links if link[1:3] == [node["id"], slot]] or None

    def to_json(self) -> dict[str, Any]:
        return {"id": f"flowcache-{self.graph.name}", "revision": 0, "last_node_id": len(self.nodes),
                "last_link_id": len(self.links), "nodes": self.nodes, "links": self.links, "groups": [], "config": {},
                "extra": {"ds": {"scale": 0.7, "offset": [60, 60]}}, "version": 0.4}

    def _node(self, name: str, node: Node) -> dict[str, Any]:
        number = self.ids[name]
        made = {"id": number, "type": node.kind, "pos": [0, 0], "size": [WIDTH, 0], "flags": {}, "order": number - 1,
                "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": []}
        if node.title:
            made["title"] = node.title
        if node.kind == NOTE:
            made |= {"widgets_values": [node.text], "color": "#432", "bgcolor": "#653"}
            self._place(made, node, node.height or 60 + 22 * (node.text.count("\n") + len(node.text) // 42))
            return made
        own = sockets(self.classes[node.kind])
        made["properties"]["Node name for S&R"] = node.kind
        made["inputs"] = [self._input(number, slot, socket, node.inputs.get(socket.name))
                          for slot, socket in enumerate(sorted(own, key=lambda s: s.widget))]
        made["outputs"] = [{"name": label, "type": kind, "links": None} for kind, label in outputs(
            self.classes[node.kind])]
        made["widgets_values"] = widget_values(own, node.inputs)
        tall = sum(bool(s.options.get("multiline")) for s in own)
        rows = max(len([s for s in own if not s.widget]), len(made["outputs"]))
        height = HEAD + SOCKET * rows + LINE * len(made["widgets_values"]) + TALL * tall + PICTURES.get(node.kind, 0)
        self._place(made, node, node.height or height)
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

    def _place(self, made: dict[str, Any], node: Node, height: int) -> None:
        top = self._heights.get(node.column, TOP)
        made["pos"], made["size"] = [node.column * COLUMN, top], [WIDTH, height]
        self._heights[node.column] = top + height + GAP


def widget_values(own: list[Socket], inputs: Mapping[str, Any]) -> list[Any]:
    """By position, as the canvas saves them."""
    values: list[Any] = []
    for socket in own:
        if socket.widget:
            given = inputs.get(socket.name, socket.default)
            values += [socket.default if is_link(given) else given, *(["fixed"] if socket.followed else [])]
    return values


def outputs(node_class: Any) -> list[tuple[str, str]]:
    """Type and name of every output."""
    kinds = node_class.RETURN_TYPES
    return list(zip(kinds, getattr(node_class, "RETURN_NAMES", None) or kinds, strict=True))
