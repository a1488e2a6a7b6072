"""tests/run.py: which test runs there are, where, and what becomes of their exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import run as runner


@pytest.fixture
def checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two checkouts of a host, the first with a virtual environment."""
    found = [tmp_path / "host", tmp_path / "older"]
    for host in found:
        host.mkdir()
        (host / "comfyui_version.py").touch()
    (found[0] / "venv" / "bin").mkdir(parents=True)
    (found[0] / "venv" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("COMFYUI_PATH", f"{found[0]}:{found[1]}")
    return found


def test_named_hosts_are_taken_and_must_be_checkouts(checkouts: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert runner.hosts() == checkouts
    monkeypatch.setenv("COMFYUI_PATH", "/nowhere")
    with pytest.raises(ValueError, match="/nowhere, which is no ComfyUI checkout"):
        runner.hosts()
    monkeypatch.delenv("COMFYUI_PATH")
    monkeypatch.setattr(runner, "DEFAULT_HOST", str(checkouts[0].parent / "none"))
    assert runner.hosts() == []


def test_host_without_an_environment_runs_in_that_of_the_first(checkouts: list[Path]) -> None:
    own = str(checkouts[0] / "venv" / "bin" / "python")
    assert [runner.python_of(host, checkouts[0]) for host in checkouts] == [own, own]


@pytest.mark.parametrize(("words", "core", "nodes"), [
    ([], [], ["tests/nodes"]),
    (["-k", "bridge"], ["-k", "bridge"], ["-k", "bridge", "tests/nodes"]),
    (["-x", "tests/kv"], ["-x", "tests/kv"], None),
    (["-x", "tests/nodes/test_pack.py::a"], None, ["-x", "tests/nodes/test_pack.py::a"]),
    (["tests/nodes", "tests/kv"], ["tests/kv"], ["tests/nodes"]),
])
def test_paths_go_to_the_run_they_belong_to(checkouts: list[Path], words: list[str], core: list[str] | None,
                                            nodes: list[str] | None) -> None:
    asked = [(arguments, host) for _, _, arguments, host in runner.runs(words, checkouts)]
    expected = [] if core is None else [(core, None)]
    assert asked == expected + ([] if nodes is None else [(nodes, host) for host in checkouts])


@pytest.mark.parametrize(("codes", "expected"), [([0, 0], 0), ([0, 5], 0), ([5, 5], 5), ([0, 1], 1), ([4, 0], 4)])
def test_one_failing_run_fails_the_whole(monkeypatch: pytest.MonkeyPatch, checkouts: list[Path],
                                         capsys: pytest.CaptureFixture, codes: list[int], expected: int) -> None:
    answers = iter(codes)
    monkeypatch.setattr(runner, "runs", lambda words, found: [("core", "", [], None), ("nodes", "", [], found[0])])
    monkeypatch.setattr(runner, "call", lambda python, arguments, host: (next(answers), f"== {host} =="))
    assert runner.main([]) == expected
    assert capsys.readouterr().out.splitlines()[-1] == f"== {checkouts[0]} =="


def test_run_passes_output_on_and_keeps_its_last_line(capfdbinary: pytest.CaptureFixture,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PYTEST", "import os; print('first'); print('last', os.environ.get('COMFYUI_PATH'))")
    assert runner.call(sys.executable, [], Path("/host")) == (0, "last /host")
    assert runner.call(sys.executable, [], None) == (0, "last None")


def test_missing_host_is_said_loudly(root: Path, tmp_path: Path) -> None:
    program = ("import sys; from tests import run; run.DEFAULT_HOST = '/nowhere/x'; "
               "run.call = lambda *given: (0, '== 1 passed =='); sys.exit(run.main([]))")
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "NO COMFYUI FOUND" in done.stdout
