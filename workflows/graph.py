"""How an example workflow is described, and what its host says of the nodes in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOTE = "MarkdownNote"   # lives on the canvas alone
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@dataclass(frozen=True)
class Node:
    """inputs: values of widgets, and links `("name of a node", output number)`; what is left out has its default.
    column: of the canvas, from the left; text: of a note; models: files that it names, with where to get them."""

    kind: str
    column: int
    inputs: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    text: str = ""
    models: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Graph:
    """nodes by name; what is computed first comes first."""

    name: str
    nodes: Mapping[str, Node]

    def ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.nodes, 1)}


@dataclass(frozen=True)
class Socket:
    """An input as its node declares it. Without a default of its own a choice has its first."""

    name: str
    kind: str
    default: Any
    optional: bool
    options: Mapping[str, Any]

    @property
    def widget(self) -> bool:
        return self.kind in WIDGETS and not self.options.get("forceInput")

    @property
    def followed(self) -> bool:
        """Whether the canvas puts a widget of its own behind it: what becomes of a seed after a run."""
        return bool(self.options.get("control_after_generate"))


def sockets(node_class: Any) -> list[Socket]:
    """All inputs of a node class of the host, in the order of the canvas."""
    found = []
    for group, declared in node_class.INPUT_TYPES().items():
        for name, spec in declared.items() if group in ("required", "optional") else ():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            choices = kind if isinstance(kind, list) else options.get("options")
            default = options.get("default", choices[0] if choices else "")
            found.append(Socket(name, "COMBO" if isinstance(kind, list) else str(kind), default, group == "optional",
                                options))
    return found


def outputs(node_class: Any) -> list[tuple[str, str]]:
    """Type and name of every output."""
    kinds = node_class.RETURN_TYPES
    return [(str(kind), name) for kind, name in
            zip(kinds, getattr(node_class, "RETURN_NAMES", None) or kinds, strict=True)]


def is_link(value: Any) -> bool:
    return isinstance(value, tuple)


def check(graph: Graph, classes: Mapping[str, Any]) -> None:
    """Raises ValueError for an input that its node does not have."""
    for name, node in graph.nodes.items():
        known = {socket.name for socket in sockets(classes[node.kind])} if node.kind != NOTE else set()
        if set(node.inputs) - known:
            raise ValueError(f"{graph.name}: {name} ({node.kind}) has no input {sorted(set(node.inputs) - known)}")
