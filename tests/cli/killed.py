"""Runs commands in children that kill themselves (SIGKILL) at given points: `killed.py CASES`, a JSON list of
`{"words": [...], "at": "call" | "half a state" | "no name yet" | "before the state" |
"behind a state", "count": n}`.

One process imports torch, and forks a child a case, before any of its threads exist.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch


def stop() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(at: str, count: int) -> None:
    """From now on the `count`-th event of the kind `at` ends this process."""
    from flowcache_core import run_folder, tensor_file
    from flowcache_core.backbones.wan import WanTransformer

    left = [count]

    def due(path: Path | None = None) -> bool:
        left[0] -= path is None or path.name.startswith("state-")
        return left[0] == 0

    if at == "call":
        inner = WanTransformer.forward
        WanTransformer.forward = lambda *args, **words: stop() if due() else inner(*args, **words)
    elif at == "behind a state":
        inner, write = WanTransformer.forward, run_folder.write_state
        run_folder.write_state = lambda path, *more: (write(path, *more), due(path))[0]
        WanTransformer.forward = lambda *args, **words: stop() if left[0] <= 0 else inner(*args, **words)
    elif at == "no name yet":
        rename = tensor_file.replace_synced
        tensor_file.replace_synced = lambda partial, path: stop() if due(path) else rename(partial, path)
    else:
        write = run_folder.write_state

        def writes(path, state, about):
            if due(path):
                if at == "half a state":
                    whole = path.with_name("whole")
                    size = write(whole, state, about)
                    path.with_name(path.name + ".partial").write_bytes(whole.read_bytes()[:size // 2])
                    whole.unlink()
                stop()
            return write(path, state, about)

        run_folder.write_state = writes


def main() -> None:
    torch.set_num_threads(1)
    from flowcache_core.cli import main as command

    for case in json.loads(sys.argv[1]):
        child = os.fork()
        if child == 0:
            arm(case["at"], case["count"])
            os._exit(command(case["words"]))
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"ended with {status}", file=sys.stderr)


main()
