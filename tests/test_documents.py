"""README, CONTRIBUTING, docs and help pages: commands are taken by the parsers, links lead somewhere, code runs."""

import argparse
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowcache_core.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
         *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "web" / "docs").glob("*.md"))]
OTHER_TOOLS = {"--golden", "--reduced", "--clips", "--group", "--videos",   # of pytest and of the benchmarks
               "--lowvram", "--base-directory", "--cpu", "--disable-auto-launch", "--front-end-root", "--listen",
               "--port", "--preview-method", "--host", "--json", "--wait", "--workflow"}   # of ComfyUI and of comfy-cli


@pytest.fixture(scope="module")
def verbs() -> dict[str, argparse.ArgumentParser]:
    return build_parser()._subparsers._group_actions[0].choices


@pytest.fixture(scope="module")
def jobs() -> dict[str, set[str]]:
    """Verbs of dev.py, and what may follow `bench`."""
    made = {}
    for name in ("dev", "benchmarks/bench"):
        spec = importlib.util.spec_from_file_location("documented", ROOT / f"{name}.py")
        made[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made[name])
    return {"dev": set(made["dev"].VERBS), "bench": set(made["benchmarks/bench"].NAMES)}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every call of the command line, without remarks and signs of what may be left out."""
    for found in re.findall(r"python3? -m flowcache_core ([^`\n]+)", text_of(page)):
        yield shlex.split(re.sub(r"[][]| \.\.\.", "", re.split(r"\s{2,}(?=\w)|\s#", found)[0]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_documented_commands_are_taken(page: Path, verbs: dict[str, argparse.ArgumentParser]) -> None:
    for verb, *words in commands(page):
        assert verb in verbs, verb
        if words:   # a verb alone is only named
            verbs[verb].parse_args(words)   # leaves with exit code 2 where it does not know an option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_options_jobs_and_files_exist(page: Path, verbs: dict[str, argparse.ArgumentParser],
                                            jobs: dict[str, set[str]]) -> None:
    text = text_of(page)
    known = {option for parser in verbs.values() for option in parser._option_string_actions} | OTHER_TOOLS
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)) <= known
    called = re.findall(r"dev\.py ([a-z]+)(?: ([a-z_]+))?", text)
    assert {verb for verb, _ in called} <= jobs["dev"]
    assert {name for verb, name in called if verb == "bench" and name} <= jobs["bench"]
    for path in re.findall(r"[\w/.]+/[a-z_]+\.(?:py|md)(?!\w)", text):
        places = (ROOT, ROOT / "flowcache_core", page.parent)
        assert path.startswith("out/") or any((place / path).exists() for place in places), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_code_of_the_readme_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    fewer = code.replace("steps=20, ar_step=10", "steps=4, ar_step=2").replace("flow_table(20", "flow_table(4")
    assert fewer != code
    made: dict = {}
    exec(fewer, made)
    assert tuple(made["frames"].shape) == (1, 3, 45, 96, 96)
