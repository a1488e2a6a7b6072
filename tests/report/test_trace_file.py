"""The trace file: written, read back, and documented field by field."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from flowcache_core.trace import SCHEMA, LaneRecord, PassRecord, Trace, load_trace


@pytest.fixture(scope="module")
def sections(root: Path) -> dict[str, str]:
    """docs/trace.md by heading."""
    parts = re.split(r"^#+ (.*)$", (root / "docs" / "trace.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title.strip("`"): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def named(section: str) -> list[str]:
    """The first column of a section's table."""
    return re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)


def test_what_is_saved_is_read(real_trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    real_trace.save(path)
    assert load_trace(path) == real_trace


def test_another_schema_is_refused(real_trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({**real_trace.to_json(), "schema": "flowcache-trace/0"}))
    with pytest.raises(ValueError, match=r"flowcache-trace/0.*expected 'flowcache-trace/2'"):
        load_trace(path)


def test_every_field_is_documented(sections: dict[str, str]) -> None:
    assert named(sections["A lane"]) == [f.name for f in fields(LaneRecord)]
    assert named(sections["A pass"]) == [f.name for f in fields(PassRecord)]
    everywhere = {name for section in sections.values() for name in named(section)}
    assert {f.name for f in fields(Trace)} <= everywhere
    assert f"`{SCHEMA}`" in sections["Schema and version"]


def test_every_key_of_a_real_trace_is_documented(sections: dict[str, str], real_trace: Trace) -> None:
    data = real_trace.to_json()
    assert named(sections["The file"]) == list(data)
    for part in ("settings", "plan", "summary"):
        assert sorted(named(sections[part])) == sorted(data[part])
