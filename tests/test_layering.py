"""Who may import whom: `nodes -> flowcache_core -> torch`, never back, and no circle inside the core."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = "flowcache_core"
HOST = ("comfy", "comfy_*", "nodes", "folder_paths", "server", "execution")
QUESTIONS = ("plan", "solvers", "reuse", "kv", "attention")
VALUES = tuple(f"{CORE}.{name}" for name in ("plan.chunk_plan", "registry", "per_chunk", "saved"))
MAY_RUN = tuple(f"{CORE}.{name}" for name in ("generation", "cli", "cli_*", "cli.*", "__main__", "demo", "demo.*",
                                                "sampling", "sampling.*"))
MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:root|work|home|Users)/")


class Import(NamedTuple):
    """`module` imports `target`, a module name as `import` would spell it; at_load: whether importing runs it."""

    module: str
    target: str
    line: int
    at_load: bool

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: imports {self.target}"


def core_modules() -> dict[str, Path]:
    files = sorted((ROOT / CORE).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


MODULES = core_modules()


def run_at_load(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes outside of functions and of `if TYPE_CHECKING`."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def targets(node: ast.AST, module: str, path: Path) -> list[str]:
    """What one import statement names. A relative import that leaves the pack begins with `..`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        kept = package[:len(package) - node.level + 1]
        if not kept:
            return [f"..{base}"]
        base = ".".join([*kept, *filter(None, [node.module])])
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]


def imports_of(module: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    at_load = {id(node) for node in run_at_load(tree)}
    for node in ast.walk(tree):
        for target in targets(node, module, path):
            yield Import(module, target, getattr(node, "lineno", 0), id(node) in at_load)


IMPORTS = [found for module, path in MODULES.items() for found in imports_of(module, path)]


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_core_never_imports_the_host() -> None:
    climbing = [i for i in IMPORTS if i.target.startswith("..")]
    host = [i for i in IMPORTS if any(fnmatch(i.target.split(".")[0], pattern) for pattern in HOST)]
    assert not [*map(str, climbing + host)]


def test_plan_is_pure() -> None:
    foreign = [i for i in IMPORTS if inside(i.module, f"{CORE}.plan") and not inside(i.target, f"{CORE}.plan")
               and i.target.split(".")[0] not in sys.stdlib_module_names]
    assert not [*map(str, foreign)]


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_to_one_question_know_only_small_values_of_the_others(question: str) -> None:
    own = f"{CORE}.{question}"
    foreign = [i for i in IMPORTS if inside(i.module, own) and inside(i.target, CORE)
               and not inside(i.target, own) and i.target not in VALUES]
    assert not [*map(str, foreign)]


def test_only_requests_the_command_line_and_the_demo_start_runs() -> None:
    foreign = [i for i in IMPORTS if inside(i.target, f"{CORE}.generation")
               and not any(fnmatch(i.module, pattern) for pattern in MAY_RUN)]
    assert not [*map(str, foreign)]


def test_no_circle_at_load() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in IMPORTS:
        if found.at_load and found.target in MODULES:
            graph[found.module].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another in a circle: {' <- '.join(error.args[1])}")


def test_no_source_names_a_path_of_one_machine() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a git checkout to know the sources ({error})")
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        text = path.read_bytes() if path.is_file() else b""
        if b"\0" not in text:   # pictures, weights
            lines = text.decode("utf-8").splitlines()
            found += [f"{name}: {line.strip()}" for line in lines if MACHINE_PATH.search(line)]
    assert not found


def test_the_core_loads_under_another_name_as_it_does_inside_a_host(tmp_path):
    """ComfyUI loads a pack under a name made of its path, with no root on `sys.path`."""
    code = ("import importlib.util, sys\n"
            f"root = {str(ROOT / 'flowcache_core')!r}\n"
            "spec = importlib.util.spec_from_file_location('core_elsewhere', root + '/__init__.py', "
            "submodule_search_locations=[root])\n"
            "module = sys.modules['core_elsewhere'] = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(module)\n"
            "for name in ('generation', 'cli', 'cli.demo', 'cli.generate', 'demo.bundle', 'demo.train', 'report'):\n"
            "    importlib.import_module('core_elsewhere.' + name)\n"
            "assert 'flowcache_core' not in sys.modules\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
