import copy
from dataclasses import fields, replace

import pytest
import torch

from flowcache_core.reuse import PREDICTORS
from flowcache_core.reuse.predictors import Increment, Residual, Span, Velocity
from flowcache_core.reuse.taylor import CorrectedVelocity, TaylorVelocity
from tests.reference import normal

STEP = Span(0.8, 0.6)


def tensors(kept) -> list[torch.Tensor]:
    """Numbers as tensors too."""
    return [kept] if isinstance(kept, torch.Tensor) else [torch.as_tensor(getattr(kept, f.name)) for f in fields(kept)]


def test_the_residual_by_hand():
    """Two blocks that double: 10 becomes 40. A skipped step from 11 gives 11 + 30 = 41; computed it would be 44."""
    kept = Residual().keep(torch.tensor(10.0), torch.tensor(40.0), STEP)
    assert Residual().predict(kept, torch.tensor(11.0), STEP) == 41


def test_the_velocity_by_hand():
    kept = Velocity().keep(torch.zeros(2), torch.tensor([3.0, -2.0]), STEP)
    assert torch.equal(Velocity().predict(kept, None, STEP), torch.tensor([3.0, -2.0]))


def test_the_increment_moves_as_far_as_the_last_computed_step():
    """Velocity 3 over a step of -0.2 moved by -0.6; over a step of -0.4 that is a velocity of 1.5."""
    kept = Increment().keep(None, torch.tensor(3.0), STEP)
    assert float(Increment().predict(kept, None, Span(0.6, 0.2))) == pytest.approx(1.5)


@pytest.mark.parametrize("name", PREDICTORS.names())
def test_a_step_that_did_not_change_is_predicted_exactly(name):
    predictor = PREDICTORS[name]()
    before, after = normal(5, 4).round(), normal(5, 4, seed=1).round()
    kept = predictor.keep(before, after, STEP)
    assert torch.equal(predictor.predict(kept, before, STEP), after)
    kept = predictor.renew(kept, before, after, Span(0.6, 0.5))
    assert torch.equal(predictor.predict(kept, before, Span(0.5, 0.4)), after) or name == "increment"


@pytest.mark.parametrize("name", PREDICTORS.names())
def test_nothing_is_written_into_what_a_predictor_is_given(name):
    predictor = PREDICTORS[name]()
    before, after, now = normal(5, 4), normal(5, 4, seed=1), normal(5, 4, seed=2)
    copies = [t.clone() for t in (before, after, now)]
    kept = predictor.keep(before, after, STEP)
    kept_copy = copy.deepcopy(kept)
    predictor.predict(kept, now, STEP)
    predictor.renew(kept, before, now, Span(0.6, 0.5))
    predictor.merge(torch.tensor([[True]] + 4 * [[False]]), kept, kept)
    assert all(torch.equal(a, b) for a, b in zip(tensors(kept), tensors(kept_copy), strict=True))
    assert all(torch.equal(a, b) for a, b in zip((before, after, now), copies, strict=True))


@pytest.mark.parametrize("sigma", [0.9, 0.8, 0.55, 0.2, 0.0])
def test_numbers_and_noise_by_pixel_give_the_same_line(sigma):
    """The same two values, once with noise levels as numbers and once by pixel, as a partial step leaves them."""
    taylor, (first, second) = TaylorVelocity(), torch.randn(2, 4, 1, 3, 3)
    kept = taylor.renew(taylor.keep(None, first, Span(1.0, 0.9)), None, second, Span(0.8, 0.7))
    pixels = {name: torch.full((1, 1, 3, 3), getattr(kept, name)) for name in ("sigma", "interval")}
    there = Span(sigma, sigma - 0.1)
    expected = taylor.predict(replace(kept, **pixels), None, there)
    torch.testing.assert_close(taylor.predict(kept, None, there), expected)


def walked(predictor, computed, steps=600):
    """Where small Euler steps through a parabola of velocities end, of which few are computed."""
    sigmas, kept, x = [1 - n / steps for n in range(steps + 1)], None, torch.zeros((), dtype=torch.float64)
    for n in range(steps):
        span = Span(sigmas[n], sigmas[n + 1], sigmas[n - 1] if n else None)
        if n in computed:
            value = torch.tensor(3 * span.sigma**2 - 2 * span.sigma + 1, dtype=torch.float64)
            old, kept = kept, predictor.keep(x, value, span) if kept is None else predictor.renew(kept, x, value, span)
            moved = predictor.missed(old, kept, span) if old is not None else None
            x = x if moved is None else x + moved
        x = x + (span.sigma_next - span.sigma) * predictor.predict(kept, x, span)
    return float(x)


def test_what_a_line_misses_of_a_parabola_is_made_up_for():
    computed, every = (0, 1, 200, 350, 599), range(600)
    plain, whole = TaylorVelocity(reach=1000), CorrectedVelocity(reach=1000, correction=1.0)
    truth = walked(plain, every)
    assert walked(whole, every) == truth, "nothing was skipped, so nothing is moved"
    error, rest = walked(plain, computed) - truth, walked(whole, computed) - truth
    assert abs(error) > 0.1 and abs(rest) < 0.02 * abs(error)
    half = walked(CorrectedVelocity(reach=1000), computed) - truth
    assert half == pytest.approx((error + rest) / 2)
    assert walked(CorrectedVelocity(reach=1000, correction=0.0), computed) - truth == error


def test_the_first_gap_and_partial_steps_are_not_corrected():
    predictor, (first, second) = CorrectedVelocity(), torch.randn(2, 2, 1, 2, 2)
    old = predictor.keep(None, first, Span(1.0, 0.9))
    new = predictor.renew(old, None, second, Span(0.6, 0.5, 0.7))
    assert predictor.missed(old, new, Span(0.6, 0.5, 0.7)) is None, "one velocity makes no line"
    later = predictor.renew(new, None, first, Span(0.2, 0.1, 0.3))
    assert predictor.missed(new, later, Span(0.2, 0.1, 0.3)) is not None
    assert predictor.missed(new, later, Span(0.2, 0.1)) is None, "nobody can move the latent"
    by_pixel = replace(new, interval=torch.full((1, 1, 2, 2), new.interval))
    assert predictor.missed(by_pixel, later, Span(0.2, 0.1, 0.3)) is None
