"""ComfyUI's own server in a process of its own, with the pack in custom_nodes, and what a farm does with it."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACK = "flowcache"
UP, DONE = 300, 600   # seconds to wait, at most, for a server and for a prompt
GIVES_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc hands freed memory back at once, so that what a process holds is what it uses."""
TEXT, PREVIEWS = 3, (1, 4)   # kinds of binary messages


@dataclass
class Told:
    """What came through the websocket while a prompt ran."""

    history: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, dict]] = field(default_factory=list)
    previews: int = 0
    texts: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[dict]:
        return [data for event, data in self.events if event == kind]

    @property
    def status(self) -> str:
        return self.history["status"]["status_str"]

    def output(self, key: str) -> list[Any]:
        """What the one node that has it in its ui output told under `key`."""
        (found,) = (shown[key] for shown in self.history["outputs"].values() if key in shown)
        return found


class Server:
    """Running, on a free port of this machine."""

    def __init__(self, base: Path, port: int, process: subprocess.Popen, log: Path) -> None:
        self.base, self.port, self.process, self.log = base, port, process, log
        self.url = f"http://127.0.0.1:{port}"

    @property
    def output(self) -> Path:
        return self.base / "output"

    def ask(self, path: str, data: dict | None = None) -> bytes:
        """The answer to a GET, or to a POST with data. Raises AssertionError with what the server says is wrong."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"} if body else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()[:2000]}") from error

    def get(self, path: str) -> Any:
        return json.loads(self.ask(path))

    def run(self, prompt: dict, meanwhile: Callable[[str], None] | None = None) -> Told:
        """Queues a prompt in the API format and waits for its end. meanwhile: called with the prompt's id once it is
        queued."""
        return asyncio.run(asyncio.wait_for(self._run(prompt, meanwhile), DONE))

    async def _run(self, prompt: dict, meanwhile: Callable[[str], None] | None) -> Told:
        import aiohttp

        told = Told()
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/ws?clientId=farm",
                                                                         max_msg_size=0) as events:
            number = json.loads(self.ask("/prompt", {"prompt": prompt, "client_id": "farm"}))["prompt_id"]
            waiting = asyncio.to_thread(meanwhile, number) if meanwhile else asyncio.sleep(0)
            _, _ = await asyncio.gather(waiting, self._listen(events, number, told))
        told.history = self.get(f"/history/{number}")[number]
        return told

    async def _listen(self, events: Any, number: str, told: Told) -> None:
        async for message in events:
            if isinstance(message.data, bytes):
                kind = int.from_bytes(message.data[:4], "big")
                told.previews += kind in PREVIEWS
                if kind == TEXT:
                    skip = 8 + int.from_bytes(message.data[4:8], "big")
                    told.texts.append(message.data[skip:].decode())
                continue
            event = json.loads(message.data)
            if event["data"].get("prompt_id", number) != number:
                continue
            told.events.append((event["type"], event["data"]))
            if event["type"] == "executing" and event["data"]["node"] is None:   # told when the history has it
                return

    def megabytes(self) -> float:
        """Resident memory of the server."""
        import psutil

        return psutil.Process(self.process.pid).memory_info().rss / 1e6


def stubs(folder: Path) -> Path:
    """Holds what stands in for torchaudio, as `host.stub_torchaudio` does."""
    made = folder / "torchaudio"
    made.mkdir(parents=True)
    for name in ("__init__", "functional", "transforms"):
        (made / f"{name}.py").write_text("")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(checkout: Path, root: Path, base: Path, *more: str) -> Iterator[Server]:
    """A server with empty folders and nothing but the pack. Raises AssertionError where it does not come up."""
    for folder in ("custom_nodes", "input", "output", "temp", "user", "models/diffusion_models"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes" / PACK).symlink_to(root, target_is_directory=True)
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(stubs(base / "stubs")))))
    port, log = free_port(), base / "server.log"
    command = [sys.executable, str(checkout / "main.py"), "--cpu", "--listen", "127.0.0.1", "--port", str(port),
               "--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-api-nodes",
               "--preview-method", "auto", *more]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=checkout, env={**os.environ, **GIVES_BACK, "PYTHONPATH": path},
                                   stdout=out, stderr=subprocess.STDOUT)
    server = Server(base, port, process, log)
    try:
        wait_until_up(server)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def wait_until_up(server: Server) -> None:
    deadline = time.monotonic() + UP
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            server.get("/system_stats")
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not come up:\n{server.log.read_text()[-4000:]}")
