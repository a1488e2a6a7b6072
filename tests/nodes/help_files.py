"""What the schemas say, as files: tables of the help pages and of the README, and the English names of `locales/en`.

`test_help.py` says when a file is stale, and writes it where FLOWCACHE_WRITE is set.
"""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"(<!-- (inputs|settings of [a-z ]+|workflows|nodes) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FILES = {"file"}   # inputs whose options are the files of a machine
FAR = 1e6          # a limit beyond it is none


def rewritten(text: str, node: type | None, root: Path, registries: dict[str, Any], nodes: dict[str, type]) -> str:
    """The page with its blocks filled."""
    made = {"workflows": lambda: workflows(node, root), "nodes": lambda: node_table(nodes),
            "inputs": lambda: f"{inputs_table(node)}\n{outputs_line(node)}"}

    def filled(block: re.Match) -> str:
        name = block[2]
        rows = settings_table(registries[name.removeprefix("settings of ")]) if name not in made else made[name]()
        return f"{block[1]}{rows}{block[4]}"

    return BLOCK.sub(filled, text)


def table(*rows: tuple[str, ...]) -> str:
    """The first row is the head."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join(["---"] * len(rows[0])), *lines[1:])) + "\n"


def inputs_table(node: type) -> str:
    rows = [(f"`{given.id}`", *kind_and_default(given), given.tooltip) for given in node.GET_SCHEMA().inputs]
    return table(("input", "kind", "default", "what it does"), *rows)


def kind_and_default(given: Any) -> tuple[str, str]:
    """A socket's type, a range or the choices; and the default in code marks, or a dash."""
    options, kind = given.as_dict(), given.get_io_type()
    default = options.get("default")
    shown = "" if default is None else "on" if default is True else "off" if default is False else f"`{default}`"
    if given.id in FILES:
        return "file", shown
    if kind == "COMBO":
        return ", ".join(f"`{choice}`" for choice in options["options"]), shown
    if "min" in options:
        return interval(options["min"], options["max"]), shown
    words = {"STRING": "text", "BOOLEAN": "on, off"}.get(kind, kind)
    return words + (", optional" if given.optional else ""), "empty" if default == "" else shown


def interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f"{low:g} or more" if high >= FAR else f"{low:g} to {high:g}"


def outputs_line(node: type) -> str:
    outputs = [(given.display_name, given.get_io_type()) for given in node.GET_SCHEMA().outputs]
    words = [f"`{name}`" if name == kind else f"`{name}` ({kind})" for name, kind in outputs]
    return f"Outputs: {', '.join(words)}.\n"


def settings_table(registry: Any) -> str:
    """Every setting of every registered class, from its knobs."""
    rows = []
    for name in registry.names():
        for knob in (field for field in fields(registry[name]) if "low" in field.metadata):
            default = str(knob.default).lower() if isinstance(knob.default, bool) else knob.default
            rows.append((f"`{name}`", f"`{knob.name}`", "" if default == "" else f"`{default}`",
                         interval(knob.metadata.get("low"), knob.metadata.get("high")), knob.metadata["doc"]))
    return table((registry.what, "setting", "default", "range", "what it does"), *rows)


def workflows(node: type, root: Path) -> str:
    """The example workflows that have the node, by name."""
    names = [path.stem for path in sorted((root / "workflows" / "api").glob("*.json"))
             if node.GET_SCHEMA().node_id in {n["class_type"] for n in json.loads(path.read_text()).values()}]
    return "".join(f"- `{name}`\n" for name in names)


def node_table(nodes: dict[str, type]) -> str:
    """Every node with its help page and the first sentence of its description."""
    schemas = sorted((node.GET_SCHEMA() for node in nodes.values()), key=lambda schema: schema.display_name)
    rows = [(f"[{schema.display_name}](web/docs/{schema.node_id}.md)", schema.description.partition(". ")[0])
            for schema in schemas]
    return table(("node", "what it does"), *rows)


def english(nodes: dict[str, type]) -> dict[str, Any]:
    """`nodeDefs.json`: names of inputs are their ids, which the help pages and the API use too."""
    found = {}
    for name, node in sorted(nodes.items()):
        schema = node.GET_SCHEMA()
        found[name] = {"display_name": schema.display_name, "description": schema.description,
                       "inputs": named_inputs(schema),
                       "outputs": {str(n): {"name": given.display_name} for n, given in enumerate(schema.outputs)}}
    return found


def named_inputs(schema: Any) -> dict[str, dict[str, str]]:
    found = {}
    for given in schema.inputs:
        found[given.id] = {"name": given.id, "tooltip": given.tooltip}
        if given.as_dict().get("control_after_generate"):
            found["control_after_generate"] = {"name": "control after generate"}   # the canvas's own widget behind it
    return found
