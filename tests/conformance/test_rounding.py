"""What is granted to rounding, and what is not."""

import pytest
import torch

from flowcache_core.kv.scorers.flowcache import FlowCacheScore
from flowcache_core.kv.scoring import Cached
from tests.conformance import golden
from tests.conformance.rounding import Recorded, check_choices, check_latents
from tests.reference import normal

KEEP = 11   # of 12: one of the twins, which repeat each other most, has to go


@pytest.fixture(autouse=True)
def noted(monkeypatch):
    monkeypatch.setattr(golden, "NOTED", [])
    return golden.NOTED


def event(given=None, **settings):
    """One event in which tokens 3 and 7 are one and the same, a folder that takes `given`, and what ours keeps."""
    keys, queries = normal(1, 2, 12, 8, seed=1), normal(1, 2, 6, 8, seed=2)
    keys[:, :, 7] = keys[:, :, 3]
    cached = Cached(keys, keys, None, 2, 4, KEEP if not settings else 4)
    plain = Recorded(FlowCacheScore(kernel=1), released_order=True, **settings)
    ours = plain.fold(queries, cached).index[0]
    if given is None:
        return ours
    press = Recorded(FlowCacheScore(kernel=1), released_order=True, given=[given(ours)], **settings)
    return press, ours, press.fold(queries, cached).index[0]


def swapped(ours):
    """3 for 7 and 7 for 3."""
    return torch.where(ours == 3, 7, torch.where(ours == 7, 3, ours))


def test_equal_tokens_may_stand_for_one_another(noted):
    press, ours, kept = event(swapped)
    assert not torch.equal(swapped(ours), ours) and torch.equal(kept, swapped(ours)) and press.ties == [0]
    check_choices("case", press, [({"layer": 0}, swapped(ours))])
    assert "1 of 1 compression events" in noted[0]


@pytest.mark.parametrize("wrong", [
    lambda ours: ours.flip(-1),                                                       # another order
    lambda ours: torch.cat([66 - ours.sum(-1, keepdim=True), ours[:, 1:]], dim=-1),   # what was dropped, for the best
    lambda ours: ours[:, :1].expand(-1, KEEP)])                                       # one token five times
def test_another_choice_is_none(wrong):
    press, ours, kept = event(wrong)
    assert torch.equal(kept, ours) and not press.ties
    with pytest.raises(AssertionError):
        check_choices("case", press, [({"layer": 0}, torch.zeros(2, KEEP))])


def test_groups_stay_whole():
    press, ours, kept = event(lambda ours: ours.flip(-1), granularity="frame")
    assert torch.equal(kept, ours) and not press.ties and torch.equal(event(granularity="frame"), ours)


def test_latents_are_held_to_the_tolerance_and_to_what_rounding_moves(noted):
    def off(error, noise):
        zero = torch.zeros(2, 2)
        check_latents("case", {"a": zero + error}, {"a": zero}, 1.0, lambda: {"a": zero + error + noise})

    check_latents("case", {"a": torch.ones(2)}, {"a": torch.ones(2)}, 1.0, lambda: pytest.fail("it ran again"))
    off(0.9, 100.0)
    assert not noted
    off(1.5, 0.8)
    assert "1.5 times the suggested tolerance" in noted[0]
    for error, noise in ((1.5, 0.0), (1.5, 0.7), (3.1, 100.0)):
        with pytest.raises(AssertionError, match="allowed"):
            off(error, noise)
