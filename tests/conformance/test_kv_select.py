"""Importance, redundancy, score and kept tokens against the released selection."""

import pytest
import torch

from flowcache_core.kv.scorers.flowcache import FlowCacheScore
from flowcache_core.kv.scoring import Cached
from flowcache_core.kv.select import by_position, by_score, group_means
from tests.conformance.golden import cases_of, tensors_of

CASES = cases_of("kv_select_*.json")
RELATIVE = 1e-6   # of importance, redundancy and score; three times what a plain implementation needs


def group_size(case):
    if case["strategy"] == "token":
        return 1
    if case.get("group_size"):
        return case["group_size"]
    frames, height, width = case["chunk_shape"]
    return height * width * (frames if case["strategy"] == "chunk" else 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_kv_selection(case):
    tensors, names = tensors_of(case), case["tensors"]
    frames, height, width = case.get("chunk_shape", (1, 1, 1))
    keys = tensors["key"].transpose(0, 1)[None, :, :case["clean_tokens"]]
    values = tensors["value"].transpose(0, 1)[None, :, :case["clean_tokens"]]
    scorer = FlowCacheScore(case["mix_lambda"], case["kernel"], case.get("query_granularity", "chunk"),
                            case.get("score_weighting_method", "no_weight"), float(case.get("power", 3)))
    cached = Cached(keys, values, None, height * width, frames * height * width)
    queries = tensors[case["query"]].transpose(0, 1)[None]
    importance, redundancy = scorer.terms(queries, cached)
    torch.testing.assert_close(importance[0], tensors[names["importance"]], rtol=RELATIVE, atol=0)
    torch.testing.assert_close(redundancy[0], tensors[names["redundancy"]], rtol=RELATIVE, atol=0)

    score, size = scorer.mix * importance - (1 - scorer.mix) * redundancy, group_size(case)
    if case["strategy"] == "token" and "query_granularity" in case:
        score = scorer.weighted(score, cached.tokens_per_chunk)
    checked = score if size == 1 else group_means(score, size)
    scale = float(importance.abs().max())   # the score is a difference: its error is that of its terms
    expected = tensors[names["score" if size == 1 else "group_score"]]
    torch.testing.assert_close(checked[0], expected, rtol=RELATIVE, atol=RELATIVE * scale)

    check_kept(case, tensors, checked[0], score, size, RELATIVE * (scale + checked[0].abs()))


def check_kept(case, tensors, checked, score, size, rounding):
    """The kept sets and their order. Where scores differ by less than rounding, either token may be the one."""
    order = tensors[case["tensors"]["kept_order"]].long()
    ranked = order[:, ::size] // size
    ranks = checked.gather(-1, ranked)
    assert (ranks.diff(dim=-1) <= rounding.gather(-1, ranked)[:, 1:]).all()
    mask = torch.zeros(score.shape[1:], dtype=torch.uint8).scatter_(1, order, 1)
    assert torch.equal(mask, tensors[case["tensors"]["kept_mask"]])
    ours = [torch.zeros_like(mask).scatter_(1, choose(score, case["budget"], size)[0], 1)
            for choose in (by_position, by_score)]
    assert torch.equal(*ours)
    tied = (checked - ranks.amin(-1, keepdim=True)).abs() <= rounding
    assert ((ours[0] == mask) | tied.repeat_interleave(size, -1)).all()
