"""dev.py: verbs, when it sets up, and how it hands over to a job."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="the environments made here are POSIX ones")


@pytest.fixture(scope="module")
def dev(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev_under_test", root / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(root: Path, tmp_path: Path, dev: ModuleType) -> Path:
    """A checkout with a complete environment, not stamped yet; its interpreter is the one that runs the tests."""
    for name in ("dev.py", dev.REQUIREMENTS, dev.CONSTRAINTS):
        shutil.copy(root / name, tmp_path)
    venv, version = tmp_path / ".venv", ".".join(map(str, sys.version_info[:3]))
    dev.interpreter(venv).parent.mkdir(parents=True)
    dev.interpreter(venv).symlink_to(sys.executable)
    made = {"home": Path(sys.executable).parent, "version": version,
            dev.SHARED: "true" if dev.host_torch(venv) else "false"}
    (venv / "pyvenv.cfg").write_text("".join(f"{key} = {value}\n" for key, value in made.items()))
    installed = venv / "lib" / f"python{version.rpartition('.')[0]}" / "site-packages" / "pip-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "RECORD").touch()
    return tmp_path


def stamp(dev: ModuleType, checkout: Path) -> None:
    (checkout / ".venv" / dev.STAMP).write_text(dev.fingerprint(checkout))


def call(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "dev.py", *words], cwd=folder, capture_output=True, text=True)


def can_keep(dev: ModuleType, checkout: Path) -> bool:
    return dev.can_keep(checkout / ".venv", dev.host_torch(checkout / ".venv"))


@pytest.mark.parametrize("words", [["tset"], []])
def test_unknown_verb_is_one_sentence_with_the_verbs(root: Path, words: list[str]) -> None:
    done = call(root, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert all(word in done.stderr for word in ("demo", "test", "lint", "bench", "train", *words))


def test_help_lists_the_verbs(root: Path) -> None:
    done = call(root, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {verb} " in done.stdout for verb in ("demo", "test", "lint", "bench", "train"))


@posix
def test_set_up_is_skipped_only_while_its_stamp_holds(dev: ModuleType, checkout: Path) -> None:
    assert not dev.is_ready(checkout)
    stamp(dev, checkout)
    assert dev.is_ready(checkout)
    for name in (dev.REQUIREMENTS, dev.CONSTRAINTS, ".venv/pyvenv.cfg"):
        before = (checkout / name).read_text()
        (checkout / name).write_text(before.replace("numpy", "numpi").replace("version = 3", "version = 4"))
        assert not dev.is_ready(checkout), name
        (checkout / name).write_text(before)
    assert dev.is_ready(checkout)
    dev.interpreter(checkout / ".venv").unlink()
    assert not dev.is_ready(checkout)


@posix
def test_borrowed_torch_that_is_gone_means_set_up_again(dev: ModuleType, checkout: Path) -> None:
    host = checkout / "host"
    (host / "torch").mkdir(parents=True)
    (dev.packages(checkout / ".venv") / dev.TORCH_LINK).write_text(f"{host}\n")
    stamp(dev, checkout)
    assert dev.is_ready(checkout)
    shutil.rmtree(host)
    assert not dev.is_ready(checkout)


@posix
def test_half_made_environment_is_not_kept(dev: ModuleType, checkout: Path) -> None:
    assert can_keep(dev, checkout)
    half = dev.packages(checkout / ".venv") / "numpy-1.dist-info"
    half.mkdir()
    assert not can_keep(dev, checkout)   # pip was stopped in the middle
    half.rmdir()
    shutil.rmtree(dev.packages(checkout / ".venv") / "pip-1.dist-info")
    assert not can_keep(dev, checkout)   # venv was stopped in the middle


@posix
def test_failed_install_is_one_sentence_and_leaves_no_stamp(dev: ModuleType, checkout: Path) -> None:
    python = dev.interpreter(checkout / ".venv")
    python.unlink()
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    done = call(checkout, "lint")
    assert done.returncode == 2
    assert "pip could not install" in done.stderr.splitlines()[-1]
    assert "exit code 7" in done.stderr
    assert not dev.is_ready(checkout)


@posix
def test_environment_that_cannot_be_made_is_one_sentence(root: Path, tmp_path: Path) -> None:
    for name in ("dev.py", "requirements-dev.txt", "constraints.txt"):
        shutil.copy(root / name, tmp_path)
    (tmp_path / ".venv").write_text("in the way")
    done = call(tmp_path, "lint")
    assert done.returncode == 2
    assert "could not make" in done.stderr.splitlines()[-1]


@posix
def test_job_gets_its_arguments_and_gives_its_exit_code(dev: ModuleType, checkout: Path) -> None:
    stamp(dev, checkout)
    (checkout / "benchmarks").mkdir()
    (checkout / "benchmarks" / "bench.py").write_text("import os, sys\nprint(sys.argv[1:], os.getcwd())\nsys.exit(7)\n")
    done = call(checkout, "bench", "--help", "x y")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == f"{['--help', 'x y']} {checkout}\n"


@posix
def test_interrupt_ends_the_job_in_its_own_way(dev: ModuleType, checkout: Path) -> None:
    stamp(dev, checkout)
    (checkout / "benchmarks").mkdir()
    (checkout / "benchmarks" / "bench.py").write_text(
        "import sys, time\ntry:\n    print('on', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n")
    job = subprocess.Popen([sys.executable, "dev.py", "bench"], cwd=checkout, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)
    assert job.stdout.readline() == "on\n"
    job.send_signal(signal.SIGINT)
    assert (*job.communicate(timeout=30), job.returncode) == ("", "", 130)


@posix
def test_stamped_set_up_costs_next_to_nothing(dev: ModuleType, checkout: Path) -> None:
    stamp(dev, checkout)
    (checkout / "benchmarks").mkdir()
    (checkout / "benchmarks" / "bench.py").touch()

    def seconds(*command: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=checkout, check=True)
        return time.perf_counter() - begin

    alone = min(seconds("benchmarks/bench.py") for _ in range(3))
    assert min(seconds("dev.py", "bench") for _ in range(3)) - alone < 0.5
