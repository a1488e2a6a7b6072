"""Every job of a developer in one command, which does its own set-up: `python dev.py VERB [arguments of the job]`.

Jobs run in `.venv` beside this file. A torch that the calling interpreter can import is reused there; otherwise the
one of constraints.txt is installed. A finished set-up leaves a stamp, and is skipped while the stamp holds.
"""

from __future__ import annotations  # so that an older Python gets as far as the sentence that refuses it

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
REQUIREMENTS, CONSTRAINTS = "requirements-dev.txt", "constraints.txt"
STAMP, TORCH_LINK = "set-up-stamp", "torch-link.pth"
SHARED = "include-system-site-packages"
VERBS = {
    "demo": ("make a video with the bundled model", ["-m", "flowcache_core", "demo"]),
    "test": ("run the tests", [os.path.join("tests", "run.py")]),
    "lint": ("check the sources", ["-m", "ruff", "check"]),
    "bench": ("measure speed, memory and quality", [os.path.join("benchmarks", "bench.py")]),
    "compare": ("compare every method on the same videos", [os.path.join("benchmarks", "compare.py")]),
    "train": ("train the bundled model on", ["-m", "flowcache_core", "train"]),
}


def fail(sentence: str) -> NoReturn:
    print(f"dev.py: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def say(sentence: str) -> None:
    print(f"dev.py: {sentence}", file=sys.stderr, flush=True)


def interpreter(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def config(venv: Path) -> dict[str, str]:
    """`pyvenv.cfg` by key; empty where there is none."""
    path = venv / "pyvenv.cfg"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.partition("=") for line in lines)
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def is_shared(venv: Path) -> bool:
    return config(venv).get(SHARED) == "true"


def packages(venv: Path) -> Path:
    """The folder into which the environment installs."""
    return next(venv.glob("lib/python*/site-packages"), venv / "Lib" / "site-packages")


def host_torch(venv: Path) -> Path | None:
    """The folder that holds the calling interpreter's torch; None where it has none, or has it from `venv`."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).resolve().parent.parent
    return None if folder.is_relative_to(venv.resolve()) else folder


def linked_torch(venv: Path) -> str:
    """Where the environment borrows torch from; empty where it borrows none, or where that has gone."""
    link = packages(venv) / TORCH_LINK
    folder = link.read_text(encoding="utf-8").strip() if link.is_file() else ""
    return folder if folder and Path(folder, "torch").is_dir() else ""


def fingerprint(root: Path) -> str:
    """What a set-up depends on. A changed one means set up again."""
    venv, made = root / ".venv", config(root / ".venv")
    parts = [(root / name).read_bytes() for name in (REQUIREMENTS, CONSTRAINTS)]
    parts += [text.encode() for text in (made.get("version", ""), made.get(SHARED, ""), linked_torch(venv))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_ready(root: Path) -> bool:
    stamp = root / ".venv" / STAMP
    return interpreter(root / ".venv").exists() and stamp.is_file() and stamp.read_text() == fingerprint(root)


def has_torch(venv: Path, version: str = "") -> bool:
    """Whether torch is installed in the environment itself."""
    return any(packages(venv).glob(f"torch-{version}*.dist-info"))


def can_keep(venv: Path, torch: Path | None) -> bool:
    """Whether an unstamped environment can be completed. Otherwise it must be made again."""
    installed = list(packages(venv).glob("*.dist-info"))
    whole = all((folder / "RECORD").is_file() for folder in installed)   # pip writes RECORD last
    if not (interpreter(venv).exists() and whole and any(folder.name.startswith("pip-") for folder in installed)):
        return False
    same_python = config(venv).get("version", "").split(".")[:2] == [str(n) for n in sys.version_info[:2]]
    return has_torch(venv) or same_python and is_shared(venv) == (torch is not None)


def make_venv(venv: Path, shared: bool) -> None:
    if Path(sys.prefix).resolve() == venv.resolve():
        fail(f"{venv} is not complete and cannot be made again from its own Python: run dev.py with another Python")
    say(f"making {venv}" + (" with the torch of this Python" if shared else ""))
    command = [sys.executable, "-m", "venv", "--clear", *(["--system-site-packages"] if shared else []), str(venv)]
    code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2).returncode
    if code:
        fail(f"python -m venv could not make {venv} (exit code {code}): check that the folder can be written and that "
             "this Python has venv and ensurepip (Debian and Ubuntu: install python3-venv), then run this again")


def install(root: Path) -> None:
    """Brings the environment to the pinned versions; nothing to do takes pip a second."""
    venv, wanted, quiet = root / ".venv", ["-r", REQUIREMENTS, "-c", CONSTRAINTS], ["--quiet"]
    if not is_shared(venv):
        lines = (root / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
        version = next(line.partition("==")[2].split()[0] for line in lines if line.startswith("torch=="))
        wanted.append(f"torch=={version}")
        if not has_torch(venv, version):
            quiet = []
            say(f"installing torch {version}: its CPU build is about 190 MB to download; on Linux a plain pip install "
                "of another version or build may bring GPU packages of several GB")
    say(f"installing {REQUIREMENTS}")
    pip = [str(interpreter(venv)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    code = subprocess.run([*pip, *quiet, *wanted], cwd=root, stdin=subprocess.DEVNULL, stdout=2).returncode
    if code:
        fail(f"pip could not install {' '.join(wanted)} (exit code {code}): its message is above; check network, disk "
             "space and that the pinned versions exist for this Python, then run this again")


def set_up(root: Path) -> None:
    venv = root / ".venv"
    torch = host_torch(venv)
    if not can_keep(venv, torch):
        make_venv(venv, torch is not None)
    if torch is not None and is_shared(venv):
        # The calling Python may be a virtual environment: the flag alone would share only the one below it.
        (packages(venv) / TORCH_LINK).write_text(f"{torch}\n", encoding="utf-8")
    install(root)
    (venv / STAMP).write_text(fingerprint(root))


def run_job(root: Path, command: list[str]) -> int:
    """The exit code of the job, run from `root`. On POSIX the job takes the place of this process, signals and all."""
    os.chdir(root)
    if os.name == "posix":
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # Ctrl-C reaches the job too, which ends in its own way
    return subprocess.call(command)


def main(argv: list[str]) -> int:
    if argv[:1] in (["--help"], ["-h"]):
        print("usage: python dev.py VERB [arguments of the job]\n")
        print("\n".join(f"  {verb:6} {what}" for verb, (what, _) in VERBS.items()))
        return 0
    if sys.version_info < (3, 10):   # noqa: UP036
        fail(f"Python {sys.version.split()[0]} is too old: run dev.py with Python 3.10 or newer")
    if not argv or argv[0] not in VERBS:
        fail((f"unknown verb {argv[0]!r}" if argv else "no verb") + f": choose one of {', '.join(VERBS)}")
    try:
        if not is_ready(ROOT):
            set_up(ROOT)
        return run_job(ROOT, [str(interpreter(ROOT / ".venv")), *VERBS[argv[0]][1], *argv[1:]])
    except OSError as error:
        fail(f"{error}: delete {ROOT / '.venv'} and run this again")
    except KeyboardInterrupt:
        say("set-up interrupted: run this again to finish it")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
