"""The pages that list policies and predictors list all of them, and every setting of a policy."""

from dataclasses import fields
from pathlib import Path

import pytest

from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.reuse.policies.flowcache import FlowCache

ROOT = Path(__file__).resolve().parents[2]
PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/policies.md")]


def test_every_policy_and_predictor_has_its_place():
    for page in PAGES:
        assert all(f"`{name}`" in page for name in POLICIES.names())
    assert all(f"`{name}`" in PAGES[1] for name in PREDICTORS.names())


@pytest.mark.parametrize("name", [name for name in POLICIES.names() if name != "mixcache"])
def test_the_table_of_the_readme_names_every_setting(name):
    row = next(line for line in PAGES[0].splitlines() if line.startswith(f"| `{name}` |"))
    own = {f.name for f in fields(POLICIES[name]) if "low" in f.metadata}
    inherited = {f.name for f in fields(FlowCache)} if name == "motioncache" else set()
    assert all(f"`{setting}`" in row for setting in own - inherited), row
