"""Who knows what later chunks look at: the salience head, its proxy and key norm against a bidirectional teacher."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.common import Bundle, save  # noqa: E402
from benchmarks.merging import CHUNK_FRAMES, attention_of, encoded_clips  # noqa: E402
from flowcache_core.demo.salience_targets import TEACHER_NOISE, CausalTap, SalienceRecorder, targets  # noqa: E402
from flowcache_core.demo.train_salience import rank_correlation  # noqa: E402
from flowcache_core.kv import SCORERS, Cached  # noqa: E402

CLIPS, CHUNKS, SHARE = 16, 8, 0.25


def teacher(bundle: Bundle, latent: Tensor, text: Tensor, per_chunk: int) -> SalienceRecorder:
    recorder = SalienceRecorder(per_chunk)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    bundle.backbone((1 - TEACHER_NOISE) * latent + TEACHER_NOISE * noise,
                    torch.full((1, latent.shape[2]), 1000 * TEACHER_NOISE), text, hooks=recorder)
    return recorder


def scores(layers: list[tuple], per_frame: int, name: str, groups: int) -> Tensor:
    """`(chunks - 1, tokens, groups)`: what a scorer says of each chunk when the next one asks for room."""
    per_chunk, made = CHUNK_FRAMES * per_frame, []
    scorer = SCORERS.make(name)
    for n, (q, k, v) in enumerate(layers):
        parts = []
        for start in range(0, k.shape[2] - per_chunk, per_chunk):
            part, following = slice(start, start + per_chunk), slice(start + per_chunk, start + 2 * per_chunk)
            cached = Cached(k[:, :, part], v[:, :, part], torch.arange(per_chunk).expand(*k.shape[:2], -1), per_frame,
                            per_chunk, per_chunk, n, len(layers))
            parts.append(scorer.score(q[:, :, following] if scorer.needs_queries else None, cached).mean((0, 1)))
        made.append(torch.stack(parts))
    group = torch.arange(len(layers)) * groups // len(layers)
    return torch.stack([torch.stack(made)[group == g].mean(0) for g in range(groups)], dim=-1)


def found_share(score: Tensor, target: Tensor) -> float:
    """Of the teacher's best quarter of the tokens of a chunk, the share that the score has in its own."""
    best = [x.topk(int(SHARE * x.shape[1]), dim=1).indices for x in (score, target)]
    marks = [torch.zeros(score.shape).scatter_(1, index, 1.0) for index in best]
    return ((marks[0] * marks[1]).sum(1) / best[0].shape[1]).mean().item()


def run(clips: int = CLIPS, keep_result: bool = True) -> dict[str, Any]:
    bundle, head = Bundle.load(), SCORERS.make("pafu_kv").head
    names = ("head", "past_use", "attention", "key_norm", "random")
    sums: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with torch.inference_mode():
        for latent, text in encoded_clips(bundle, clips, CHUNKS * CHUNK_FRAMES, seed=61):
            per_frame = bundle.backbone.sizes.tokens_per_frame(*latent.shape[3:])
            per_chunk = CHUNK_FRAMES * per_frame
            recorder = teacher(bundle, latent, text, per_chunk)
            target = targets(recorder.later, recorder.earlier, head.groups, per_chunk)
            layers = attention_of(bundle, latent, text, per_chunk)
            for name in names:
                score = hidden_scores(bundle, latent, text, head, per_chunk) if name == "head" else scores(
                    layers, per_frame, name, head.groups)
                sums[name].append((rank_correlation(score, target), found_share(score, target)))
    rows = [{"score": name, "rank_correlation": round(sum(a for a, _ in found) / clips, 4),
             "found_of_best_quarter": round(sum(b for _, b in found) / clips, 4)} for name, found in sums.items()]
    result = {"clips": clips, "chunks": CHUNKS, "rows": rows}
    return save("salience", result) if keep_result else result


def hidden_scores(bundle: Bundle, latent: Tensor, text: Tensor, head: Any, per_chunk: int) -> Tensor:
    frames = latent.shape[2]
    tap = CausalTap(head.tap, per_chunk, frames // CHUNK_FRAMES * per_chunk)
    bundle.backbone(latent, torch.zeros(1, frames), text, hooks=tap)
    return head(tap.hidden[0].unflatten(0, (-1, per_chunk))[:-1])


if __name__ == "__main__":
    for line in run(*((2, False) if "--reduced" in sys.argv[1:] else ()))["rows"]:
        print(line)
