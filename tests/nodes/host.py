"""ComfyUI in this process: set up as its server would set it up, without one."""

import asyncio
import importlib.util
import inspect
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

NUMBERS = itertools.count()


def start(checkout: Path, base: Path) -> None:
    """Makes ComfyUI's modules importable, on the CPU and with `base` for its folders. Once a process, and before any
    of them is imported."""
    stub_torchaudio()
    sys.path.insert(0, str(checkout))
    words, sys.argv = sys.argv, ["comfyui", "--cpu", "--base-directory", str(base),
                                 "--database-url", "sqlite:///:memory:"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
        importlib.import_module("utils.extra_config")   # as main.py does: later `utils` would be another module
    finally:
        sys.argv = words


def stub_torchaudio() -> None:
    """Stands in for torchaudio, which hosts before 0.38 import whether they use it or not."""
    if importlib.util.find_spec("torchaudio") is None:
        for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
            sys.modules[name] = module = ModuleType(name)
            module.__spec__ = importlib.util.spec_from_loader(name, None)


def load_builtins() -> None:
    """Registers the host's own nodes."""
    import nodes

    for folder in ("custom_nodes", "input", "output", "temp", "models"):
        Path(sys.modules["folder_paths"].base_path, folder).mkdir(exist_ok=True)
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))


def load_pack(root: Path) -> ModuleType:
    """The pack, registered as the host registers it. Raises RuntimeError where the host refuses it."""
    import nodes

    if not asyncio.run(nodes.load_custom_node(str(root))):
        raise RuntimeError(f"this ComfyUI does not load the pack in {root}: its log has the reason")
    return sys.modules[str(root).replace(".", "_x_")]


class Messages:
    """Stands in for the server: keeps what would go to the browser."""

    client_id = "test"
    last_node_id = None

    def __init__(self) -> None:
        self.sent: list[tuple[Any, Any]] = []

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        self.sent.append((event, data))


class PromptFailed(Exception):
    """What a node raised, as the browser would show it."""


class Queue:
    """Runs prompts one after the other, with outputs cached from one to the next. Made anew it has an empty cache."""

    def __init__(self, cache: str = "CLASSIC") -> None:
        import execution

        self.server = Messages()
        wanted = {"cache_type": getattr(execution.CacheType, cache), "cache_args": {"ram": 0.0, "ram_inactive": 0.0}}
        known = inspect.signature(execution.PromptExecutor).parameters   # no cache_args on the oldest host
        self._executor = execution.PromptExecutor(self.server, **{k: v for k, v in wanted.items() if k in known})

    def run(self, prompt: dict[str, dict]) -> dict[str, dict]:
        """The ui outputs by node id. Raises PromptFailed where the prompt is refused, a node fails, or is
        interrupted."""
        import execution

        name = f"prompt-{next(NUMBERS)}"
        ok, error, outputs, node_errors = asyncio.run(execution.validate_prompt(name, prompt, None))
        if not ok:
            raise PromptFailed(f"refused: {error} {node_errors}")
        self.server.sent.clear()
        self._executor.execute(prompt, name, {"client_id": self.server.client_id}, outputs)
        events = dict(self._executor.status_messages)
        if "execution_success" not in events:
            failed = events.get("execution_error", {})
            raise PromptFailed(failed.get("exception_message", "interrupted"))
        return self._executor.history_result["outputs"]

    def executed(self) -> list[str]:
        """Ids of the nodes that ran in the last prompt, cached ones left out, in their order."""
        return [data["node"] for event, data in self.server.sent if event == "executing" and data["node"]]
