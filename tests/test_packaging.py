"""What the pack declares: its dependencies, and what ComfyUI loads."""

import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def requirements(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def by_name(found: list[Requirement]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in found}


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_requirements_are_those_of_the_project(root: Path, project: dict) -> None:
    assert requirements(root / "requirements.txt") == [Requirement(line) for line in project["dependencies"]]


def test_requirements_replace_nothing_of_the_host(root: Path) -> None:
    found = requirements(root / "requirements.txt")
    assert not [r.name for r in found if "torch" in r.name]
    assert all(s.operator == ">=" for r in found for s in r.specifier)


def test_development_adds_to_the_requirements_and_swaps_only_opencv(root: Path) -> None:
    user, developer = (by_name(requirements(root / name)) for name in ("requirements.txt", "requirements-dev.txt"))
    headless, plain = developer.pop("opencv-python-headless"), user.pop("opencv-python")
    assert headless.specifier == plain.specifier
    assert user == {name: developer.get(name) for name in user}


@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_every_development_requirement_is_pinned_once(root: Path, python: str) -> None:
    pins = [r for r in requirements(root / "constraints.txt")
            if r.marker is None or r.marker.evaluate({"python_version": python})]
    assert len(by_name(pins)) == len(pins)
    assert all([s.operator for s in r.specifier] == ["=="] for r in pins)
    for wanted in [*requirements(root / "requirements-dev.txt"), Requirement("torch")]:
        pin = by_name(pins)[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(next(iter(pin.specifier)).version), f"{pin} is not {wanted}"


def test_versions_agree(root: Path, project: dict) -> None:
    import flowcache_core

    assert flowcache_core.__version__ == project["version"]
    assert f"## [{project['version']}]" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_pack_loads_without_the_host(root: Path, pack: ModuleType) -> None:
    assert inspect.iscoroutinefunction(pack.comfy_entrypoint)
    assert (root / pack.WEB_DIRECTORY / "docs").is_dir()
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")   # beside it, ComfyUI would not look at the entry point


def test_the_registry_gets_what_comfyui_loads_and_no_more(root: Path) -> None:
    left_out = (root / ".comfyignore").read_text(encoding="utf-8").split()
    kept = {path.name for path in root.iterdir() if not path.name.startswith(".")
            and not {path.name, f"{path.name}/"} & set(left_out)} - {"out", "runs", "__pycache__"}
    assert kept == {"__init__.py", "nodes", "flowcache_core", "workflows", "subgraphs", "web", "locales",
                    "pyproject.toml", "requirements.txt", "README.md", "CHANGELOG.md", "LICENSE"}
    assert all(any(root.glob(entry)) for entry in left_out)
