"""The embedded prompts of a run: one a chunk in every stream, checked before anything is sampled."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .plan.chunk_plan import ChunkPlan, Pass
from .run_settings import RunSettings

CONTEXT = "context"   # key of the prompts that commit passes use in place of their stream's
Texts = Mapping[str, Sequence[Tensor]]   # embedded prompts of every chunk, by stream


def checked_texts(texts: Texts, plan: ChunkPlan, settings: RunSettings) -> dict[str, list[Tensor]]:
    """The embedded prompts of the run's streams, one a chunk, expanded to all items. Raises ValueError."""
    checked = {stream: _stream_texts(stream, texts, plan, settings)
               for stream in (*settings.streams, *([CONTEXT] if CONTEXT in texts else []))}
    for p in plan.passes():
        seen = [] if p.prompt is not None else p.chunks
        if p.joint and not all(_same(checked[s][c], checked[s][p.chunks[0]]) for s in checked for c in seen):
            raise ValueError("prompts that differ by chunk in a plan that denoises chunks jointly: use one prompt, or "
                             "a plan with one chunk a pass")
    for chunk, given in enumerate(zip(*(checked[stream] for stream in settings.streams), strict=True)):
        lengths = sorted({text.shape[1] for text in given})
        if settings.batch_streams and len(lengths) > 1:
            raise ValueError(f"texts of {' and '.join(map(str, lengths))} tokens for chunk {chunk}: streams in one "
                             "call need one length; pad them, or switch batch_streams off")
    return checked


def text_of(texts: Texts, p: Pass, stream: str) -> Tensor:
    """The prompt `(items, L, D)` that a pass is told in a stream."""
    swapped = p.kind == "commit" and CONTEXT in texts
    return texts[CONTEXT if swapped else stream][p.chunks[0] if p.prompt is None else p.prompt]


def _stream_texts(stream: str, texts: Texts, plan: ChunkPlan, settings: RunSettings) -> list[Tensor]:
    if stream not in texts:
        raise ValueError(f"no text for stream {stream}: guidance {settings.guidance} needs it (guidance 1 needs no "
                         "negative prompt)")
    given, items = list(texts[stream]), settings.items
    wanted = len(plan.chunks) - plan.end_chunks
    if len(given) != wanted:
        raise ValueError(f"{len(given)} texts for {wanted} chunks in stream {stream}: expected one each")
    given += given[-1:] * plan.end_chunks
    rows = next((text.shape[0] for text in given if text.shape[0] not in (1, items)), None)
    if rows is not None:
        raise ValueError(f"text of {rows} rows in stream {stream}: expected 1, or {items}, one an item")
    expanded = {id(text): text.expand(items, -1, -1) for text in given}
    return [expanded[id(text)] for text in given]


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or torch.equal(a, b)
