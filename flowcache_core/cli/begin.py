"""How a run begins in a folder: anew, where an interrupted one stopped, or behind a finished one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..backbones.backbone import Backbone
from ..generation import Generation, Given
from ..identity import difference, facts_of, run_facts, weights_fact
from ..plan.rest import rest_of
from ..protocols import Codec, TextEncoder
from ..run_folder import RunFolder, read_manifest
from ..sampling import RunRequest

REBUILT = ("keys of {} finished chunks made again from their latents: the rest of the video is not the one that an "
           "uninterrupted run makes, bit for bit")


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
    finished, notes = home.load_finished()
    if len(finished) == home.chunks:
        raise ValueError(f"{home.path}: all {home.chunks} chunks are finished, nothing is left to make (--extend adds "
                         "chunks)")
    home.given = len(finished)
    run = _behind(request, models, finished, home.given)
    run.trace.notes += [*notes, *([REBUILT.format(home.given)] if home.given else [])]
    return Begun(run, home, finished)


def extended(request: RunRequest, models: Models, folder: Path, words: Sequence[str], keep_state: bool,
             before: RunRequest) -> Begun:
    """A longer run behind the finished one of a folder, from its keys where a state has them, else from its latents.

    request: of the whole video; before: of the finished part. Raises ValueError where that is not finished, or was made
    with other settings.
    """
    manifest, given = read_manifest(folder), len(before.plan.chunks)
    home = _home(request, models, folder, words, keep_state, given)
    fixed = [{name: fact for name, fact in facts.items() if name == "model" or name.startswith("settings")}
             for facts in (manifest["facts"], home.facts)]
    told = difference(*fixed)
    if told:
        raise ValueError(f"extension of {folder} with other settings: {told}; leave them as they were")
    if not manifest["ended"]:
        raise ValueError(f"extension of {folder}: {len(manifest['chunks'])} of its {manifest['of']} chunks are "
                         f"finished; go on with --resume {folder} first")
    if before.plan.chunks[-1].frames != before.plan.chunks[0].frames:
        raise ValueError(f"extension of {folder}: its last chunk has {before.plan.chunks[-1].frames} of "
                         f"{before.plan.chunks[0].frames} latent frames; extend videos of whole chunks")
    home.given = manifest["given"]   # of the state that is read
    state, finished, notes = home.load_state(models.backbone.device) if manifest["state"] else (None, {}, [])
    finished = finished or home.load_finished()[0]
    home.given = given
    if len(finished) < given:
        raise ValueError(f"extension of {folder}: chunk {len(finished)} is missing or damaged")
    run = _behind(request, models, finished, given)
    adopted = state is not None and not notes and run.adopt(state, before.plan)
    run.trace.notes += [*notes, *([] if adopted else [REBUILT.format(given)])]
    return Begun(run, home, finished)
