"""How a run begins in a folder: anew, where an interrupted one stopped, or behind a finished one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..backbones.backbone import Backbone
from ..generation import Generation, Given
from ..identity import Facts, difference, facts_of, run_facts, weights_fact
from ..plan.rest import rest_of
from ..protocols import Codec, TextEncoder
from ..run_folder import RunFolder, read_manifest
from ..run_state import RunState
from ..sampling import REBUILT, RunRequest

LENGTH = "settings.video_chunks"   # is to change


@dataclass(frozen=True)
class Models:
    """What makes a video: network, codec (None: its latents are the result), text encoder."""

    backbone: Backbone
    codec: Codec | None
    encoder: TextEncoder


@dataclass(frozen=True)
class Begun:
    """A run that is ready to go, the folder it writes to, and the chunks of the video that are finished already."""

    run: Generation
    home: RunFolder
    finished: dict[int, Tensor] = field(default_factory=dict)


def _home(request: RunRequest, models: Models, folder: Path, words: Sequence[str], keep_state: bool,
          given: int = 0) -> RunFolder:
    prompts = [*request.prompts, f"negative: {request.negative}"]
    facts = {**run_facts(request.plan, request.settings(), prompts, weights_fact(models.backbone)),
             **facts_of(request.given, "given"), "rate": str(request.rate)}
    return RunFolder(folder, facts, words, len(request.plan.chunks), keep_state, given)


def new_run(request: RunRequest, models: Models, folder: Path, words: Sequence[str], keep_state: bool) -> Begun:
    """Raises ValueError where the folder holds an unfinished run."""
    run = request.generation(models.backbone, models.encoder)
    home = _home(request, models, folder, words, keep_state)
    home.start()
    return Begun(run, home)


def _behind(request: RunRequest, models: Models, finished: dict[int, Tensor], given: int) -> Generation:
    """A run of what is left behind `given` chunks."""
    if not given:
        return request.generation(models.backbone, models.encoder)
    prefix = torch.cat([finished[c] for c in range(given)], dim=2)
    rest = replace(request, plan=rest_of(request.plan, given), given=Given(prefix))
    return rest.generation(models.backbone, models.encoder)


def resumed(request: RunRequest, models: Models, folder: Path, words: Sequence[str], keep_state: bool) -> Begun:
    """The interrupted run of a folder. Raises ValueError for another run, or one that cannot go on."""
    home = _home(request, models, folder, words, keep_state, read_manifest(folder)["given"])
    home.check()
    if not keep_state:
        return _rebuilt(request, models, home)
    state, finished, notes = home.load_state(models.backbone.device)
    run = _behind(request, models, finished, home.given)
    if state is not None:
        run.restore(state, finished)
    run.trace.notes += notes
    return Begun(run, home, finished)


def _rebuilt(request: RunRequest, models: Models, home: RunFolder) -> Begun:
    finished, notes = load_unfinished(home)
    home.given = len(finished)
    run = _behind(request, models, finished, home.given)
    run.trace.notes += [*notes, *([REBUILT.format(home.given)] if home.given else [])]
    return Begun(run, home, finished)


def load_unfinished(home: RunFolder) -> tuple[dict[int, Tensor], list[str]]:
    """As `load_finished`. Raises ValueError where nothing is left to make."""
    finished, notes = home.load_finished()
    if len(finished) == home.chunks:
        raise ValueError(f"{home.path}: all {home.chunks} chunks are finished, nothing is left to make (--extend adds "
                         "chunks)")
    return finished, notes


def extended(request: RunRequest, models: Models, folder: Path, words: Sequence[str], keep_state: bool,
             before: RunRequest) -> Begun:
    """A longer run behind the finished one of a folder, from its keys where a state has them, else from its latents.

    request: of the whole video; before: of the finished part. Raises ValueError where that is not finished, or was made
    with other settings.
    """
    given = len(before.plan.chunks)
    home = _home(request, models, folder, words, keep_state, given)
    state, finished, notes = take_over(home, models, given, home.facts, ("model", "settings"))
    run = _behind(request, models, finished, given)
    adopted = state is not None and run.adopt(state, before.plan)
    run.trace.notes += [*notes, *([] if adopted else [REBUILT.format(given)])]
    return Begun(run, home, finished)


def take_over(home: RunFolder, models: Models, count: int, facts: Facts,
              compared: tuple[str, ...]) -> tuple[RunState | None, dict[int, Tensor], list[str]]:
    """The finished run of `count` chunks in the folder that `home` goes on in: its last state where that can be read,
    its chunks, and what there is to say.

    facts: what the finished part has to be, as far as their names begin with one of `compared`. Raises ValueError where
    it is not finished, or was made with other settings.
    """
    folder, manifest = home.path, read_manifest(home.path)
    told = difference(*({name: fact for name, fact in found.items() if name.startswith(compared) and name != LENGTH}
                        for found in (manifest["facts"], facts)))
    if told:
        raise ValueError(f"extension of {folder} with other settings: {told}; leave them as they were")
    if not manifest["ended"]:
        raise ValueError(f"extension of {folder}: {len(manifest['chunks'])} of its {manifest['of']} chunks are "
                         f"finished; go on with --resume {folder} first")
    old = RunFolder(folder, {}, (), count, given=manifest["given"])
    state, _, notes = old.load_state(models.backbone.device) if manifest["state"] else (None, {}, [])
    finished, _ = old.load_finished()
    if len(finished) < count:
        raise ValueError(f"extension of {folder}: chunk {len(finished)} is missing or damaged")
    home.saved, home.takes_over = sorted(finished), home.keep_state
    return None if notes else state, finished, notes
