"""Importance, redundancy, score and kept tokens against the released selection."""

import pytest
import torch

from flowcache_core.kv.scorers.flowcache import FlowCacheScore
from flowcache_core.kv.scoring import Cached
from flowcache_core.kv.select import by_position, by_score, gather_tokens, group_means
from tests.conformance.golden import cases_of, tensors_of

CASES = cases_of("kv_select_sky.json") + cases_of("kv_select_magi.json")


def group_size(case):
    if case["strategy"] == "token":
        return 1
    if "group_size" in case:
        return case["group_size"]
    frames, height, width = case["chunk_shape"]
    return height * width * (frames if case["strategy"] == "chunk" else 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_kv_selection(case):
    tensors, names = tensors_of(case["file"]), case["tensors"]
    frames, height, width = case.get("chunk_shape", (1, 1, 1))
    keys = tensors["key"].transpose(0, 1)[None, :, :case["clean_tokens"]]
    values = tensors["value"].transpose(0, 1)[None, :, :case["clean_tokens"]]
    scorer = FlowCacheScore(case["mix_lambda"], case["kernel"], case.get("query_granularity", "chunk"),
                            case.get("score_weighting_method", "no_weight"), float(case.get("power", 3)))
    cached = Cached(keys, values, None, height * width, frames * height * width)
    queries = tensors[case["query"]].transpose(0, 1)[None]
    importance, redundancy = scorer.terms(queries, cached)
    torch.testing.assert_close(importance[0], tensors[names["importance"]], rtol=1e-6, atol=0)
    torch.testing.assert_close(redundancy[0], tensors[names["redundancy"]], rtol=1e-6, atol=0)

    score, size = scorer.mix * importance - (1 - scorer.mix) * redundancy, group_size(case)
    if case["strategy"] == "token" and "query_granularity" in case:
        score = scorer.weighted(score, cached.tokens_per_chunk)
    checked = score if size == 1 else group_means(score, size)
    scale = float(importance.abs().max())   # the score is a difference: its error is that of its terms
    expected = tensors[names["score" if size == 1 else "group_score"]]
    torch.testing.assert_close(checked[0], expected, rtol=1e-6, atol=1e-6 * scale)

    # Kept sets must agree; their order may differ where scores differ by less than rounding.
    order = tensors[names["kept_order"]].long()
    ranks = checked[0].gather(-1, order[:, ::size] // size)
    assert (ranks.diff(dim=-1) <= 1e-6 * scale).all()
    assert torch.equal(by_score(score, case["budget"], size)[0].sort(-1).values, order.sort(-1).values)
    mask = torch.zeros(score.shape[1:], dtype=torch.uint8).scatter_(1, by_position(score, case["budget"], size)[0], 1)
    assert torch.equal(mask, tensors[names["kept_mask"]])
    assert torch.equal(gather_tokens(keys, order[None])[0, 0], keys[0, 0, order[0]])
