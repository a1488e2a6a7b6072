"""Puts the core where `import flowcache_core` finds it, without the root on sys.path: there, our folder `nodes` would
hide ComfyUI's module of that name."""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(name: str, folder: Path) -> ModuleType:
    """The package in `folder`, imported as `name` and registered as that."""
    start = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[str(folder)])
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:   # in the background of a script; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "flowcache_core" not in sys.modules:
    load("flowcache_core", ROOT / "flowcache_core")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The whole pack, under a name of its own as ComfyUI loads it."""
    return load("flowcache_pack", ROOT)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", metavar="DIR", help="reference vectors for tests/conformance (else FLOWCACHE_GOLDEN, "
                                                     "else ../shared/golden)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--golden"):
        os.environ["FLOWCACHE_GOLDEN"] = config.getoption("--golden")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how much of the conformance suite ran, since a missing folder must not look like a pass."""
    counts = {outcome: sum("tests/conformance/" in getattr(report, "nodeid", "")
                           for report in terminalreporter.getreports(outcome))
              for outcome in ("passed", "failed", "skipped", "error")}
    counts["failed"] += counts.pop("error")
    if any(counts.values()):
        terminalreporter.write_line("conformance: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
        from tests.conformance import golden

        for note in golden.NOTED:
            terminalreporter.write_line(f"conformance: {note}")
        if golden.stands_in():
            terminalreporter.write_line(f"CONFORMANCE WITH THE AUTHORS' IMPLEMENTATION WAS NOT CHECKED: no reference "
                                        f"vectors in {golden.asked()}; the cases above are small ones of our own "
                                        "making. Give the folder with --golden DIR or FLOWCACHE_GOLDEN", bold=True)
