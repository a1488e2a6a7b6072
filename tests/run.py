"""All tests: the core's in this Python, then those marked `comfy` in the Python of every ComfyUI that is there.

`python tests/run.py [arguments of pytest]`. Hosts: the checkouts that COMFYUI_PATH lists, else ~/comfy/ComfyUI and its
neighbours ~/comfy/ComfyUI-*. A host runs in its own virtual environment (.venv or venv in its folder), else in that of
the first one, else in COMFYUI_PYTHON, else in this Python. Paths given as arguments go to the run they belong to.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# `python -m pytest` would put the root on sys.path, where our folder `nodes` hides ComfyUI's module of that name.
PYTEST = "import runpy, sys; sys.path[:] = filter(None, sys.path); runpy.run_module('pytest', {}, '__main__', True)"
NOTHING_RAN = 5   # exit code of pytest
DEFAULT_HOST = "~/comfy/ComfyUI"


def hosts() -> list[Path]:
    """The checkouts to test with. Raises ValueError for one that is named and not there."""
    named = [Path(part).expanduser() for part in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if part]
    for path in named:
        if not (path / "comfyui_version.py").is_file():
            raise ValueError(f"COMFYUI_PATH names {path}, which is no ComfyUI checkout: correct it or unset it")
    first = Path(DEFAULT_HOST).expanduser()
    return named or [path for path in (first, *sorted(first.parent.glob(f"{first.name}-*")))
                     if (path / "comfyui_version.py").is_file()]


def python_of(host: Path, first: Path) -> str:
    """The interpreter that has the host's requirements."""
    own = (folder / name / "bin" / "python" for folder in (host, first) for name in (".venv", "venv"))
    return next((str(path) for path in own if path.exists()), os.environ.get("COMFYUI_PYTHON", sys.executable))


def runs(words: list[str], found: list[Path]) -> list[tuple[str, str, list[str], Path | None]]:
    """Name, interpreter, arguments and host of every run that the arguments ask for."""
    paths = [word for word in words if not word.startswith("-") and (ROOT / word.partition("::")[0]).exists()]
    ours = [word for word in paths if Path(word).as_posix().startswith("tests/nodes")]
    asked: list[tuple[str, str, list[str], Path | None]] = []
    if not paths or set(paths) - set(ours):
        asked.append(("core", sys.executable, [word for word in words if word not in ours], None))
    if not paths or ours:
        rest = [word for word in words if word not in paths] + (ours or ["tests/nodes"])
        asked += [(f"nodes in {host}", python_of(host, found[0]), rest, host) for host in found]
    return asked


def call(python: str, arguments: list[str], host: Path | None) -> tuple[int, str]:
    """Exit code and last line of one pytest run, whose output is passed on as it comes."""
    environment = {key: value for key, value in os.environ.items() if key != "COMFYUI_PATH"}
    if host is not None:
        environment["COMFYUI_PATH"] = str(host)
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    job = subprocess.Popen([python, "-c", PYTEST, *colour, *arguments], cwd=ROOT, env=environment,
                           stdout=subprocess.PIPE)
    tail = b""
    while piece := os.read(job.stdout.fileno(), 65536):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        tail = (tail + piece)[-4096:]
    lines = tail.decode(errors="replace").strip().splitlines()
    return job.wait(), lines[-1] if lines else "no output"


def main(words: list[str]) -> int:
    try:
        found = hosts()
    except ValueError as error:
        print(f"tests: {error}", file=sys.stderr)
        return 2
    try:
        done = [(name, *call(python, arguments, host)) for name, python, arguments, host in runs(words, found)]
    except KeyboardInterrupt:
        return 130
    if not found:
        print("\ntests: NO COMFYUI FOUND, the tests of the nodes did not run: name a checkout in COMFYUI_PATH")
    for name, _, line in done:
        print(f"\n{name}:\n{line}")
    codes = [code for _, code, _ in done]
    return next((code for code in codes if code not in (0, NOTHING_RAN)), min(codes, default=NOTHING_RAN))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
