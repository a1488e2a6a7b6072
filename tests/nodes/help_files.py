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
        rows = settings_tables(registries[name.removeprefix("settings of ")]) if name not in made else made[name]()
        return f"{block[1]}{rows}{block[4]}"

    return BLOCK.sub(filled, text)


def table(*rows: tuple[str, ...]) -> str:
    """The first row is the head."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join(["---"] * len(rows[0])), *lines[1:])) + "\n"


def inputs_table(node: type) -> str:
    """Two columns, and names in no code marks, which do not wrap: the panel of the help page is narrow."""
    rows = [(given.id, f"{given.tooltip} *{kind_and_default(given)}*") for given in node.GET_SCHEMA().inputs]
    return table(("input", "what it does"), *rows)


def kind_and_default(given: Any) -> str:
    """A socket's type, a range or the choices, and the default."""
    options, kind = given.as_dict(), given.get_io_type()
    default = options.get("default")
    if given.id in FILES:
        words = "A file"
    elif kind == "COMBO":
        words = ", ".join(options["options"])
    elif "min" in options:
        words = interval(options["min"], options["max"])
    else:
        words = {"STRING": "Text", "BOOLEAN": "On or off"}.get(kind, kind) + (", optional" * given.optional)
    shown = {True: "on", False: "off"}[default] if isinstance(default, bool) else default
    return words if default is None else f"{words}; default {'empty' if shown == '' else shown}"


def interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f"{low:g} or more" if high >= FAR else f"{low:g} to {high:g}"


def outputs_line(node: type) -> str:
    outputs = [(given.display_name, given.get_io_type()) for given in node.GET_SCHEMA().outputs]
    words = [f"`{name}`" if name == kind else f"`{name}` ({kind})" for name, kind in outputs]
    return f"Outputs: {', '.join(words)}.\n"


def settings_tables(registry: Any) -> str:
    """Every setting of every registered class, from its knobs; those without settings are left out."""
    made = ""
    for name in registry.names():
        knobs = [knob for knob in fields(registry[name]) if "low" in knob.metadata]
        rows = [(knob.name, f"{knob.metadata['doc']} ({range_and_default(knob)})") for knob in knobs]
        made += f"\n### {name}\n\n{table(('setting', 'what it does'), *rows)}" if rows else ""
    return made.lstrip("\n")


def range_and_default(knob: Any) -> str:
    default = str(knob.default).lower() if isinstance(knob.default, bool) else knob.default
    words = [interval(knob.metadata["low"], knob.metadata["high"]), f"default {'empty' if default == '' else default}"]
    return "; ".join(filter(None, words))


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
