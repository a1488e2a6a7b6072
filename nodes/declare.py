"""Node schemas and inputs, declared once for old and new hosts, and the sockets that only this pack has."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "FlowCache (AR video)"
NEWER = {"search_aliases", "essentials_category", "has_intermediate_output", "advanced"}   # not on the oldest host

Report = io.Custom("FLOWCACHE_REPORT")   # carries the core's Trace


def _known(keywords: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in keywords.items() if key in names or key not in NEWER}


def schema(node_id: str, display_name: str, **keywords: Any) -> io.Schema:
    """`io.Schema` in the pack's category, less what this host does not know yet (`NEWER`)."""
    names = {field.name for field in fields(io.Schema)}
    return io.Schema(node_id=node_id, display_name=display_name, **{"category": CATEGORY, **_known(keywords, names)})


def given(kind: Callable[..., Any], name: str, **keywords: Any) -> Any:
    """An input such as `io.Int.Input`, less what this host does not know yet (`NEWER`)."""
    return kind(name, **_known(keywords, set(inspect.signature(kind).parameters)))
