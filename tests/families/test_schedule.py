"""Schedules in words: what each profile samples by, and what can be asked of it."""

import pytest

from flowcache_core.plan import History, dense, diffusion_forcing, rolling, sequential
from flowcache_core.profiles import load_profile
from flowcache_core.sampling import plan_request


def built(profile, frames, *words, **changes):
    return plan_request(load_profile(profile), frames, *words, **changes).build()


@pytest.mark.parametrize(("profile", "plan"), [
    ("skyreels-v2-df", diffusion_forcing(25, 5, 50, 5)),
    ("skyreels-v2-df-i2v", diffusion_forcing(25, 5, 50, 0)),
    ("self-forcing", sequential(25, 3, 4)),
    ("causvid", sequential(25, 3, 3)),
    ("causal-forcing-framewise", sequential(25, 1, 4)),
    ("causal-forcing-2step", sequential(25, 1, 2, first_steps=4)),
    ("causal-forcing-1step", sequential(25, 1, 1, first_steps=4)),
    ("longlive", sequential(25, 3, 4, history=History(2, 1))),
    ("longlive-infinity", sequential(25, 3, 4, history=History(2, 1, rebase=True))),
    ("rolling-forcing", rolling(25, 3, 5, History(1, 1, rebase=True), most=7, commit_history=History(6))),
    ("causal-forcing-long", rolling(25, 3, 5, History(1, 1, rebase=True), most=7, commit_history=History(6)))])
def test_profiles_sample_by_the_plans_of_their_authors(profile, plan):
    assert built(profile, 25) == plan


@pytest.mark.parametrize(("schedule", "changes", "plan"), [
    ("async", {}, diffusion_forcing(40, 5, 50, 5)), ("async", {"steps": 30}, diffusion_forcing(40, 5, 30, 3)),
    ("async", {"ar_step": 7}, diffusion_forcing(40, 5, 50, 7)), ("sync", {}, diffusion_forcing(40, 5, 50, 0)),
    ("dense", {}, dense(40, 5, 50)), ("dense", {"ar_step": 5}, dense(40, 5, 50, 5)),
    ("rolling", {}, diffusion_forcing(40, 5, 50, 10, base_chunks=5)),
    ("rolling", {"steps": 30}, diffusion_forcing(40, 5, 30, 6, base_chunks=5))])
def test_schedules_of_diffusion_forcing(schedule, changes, plan):
    assert built("skyreels-v2-df", 40, schedule, **changes) == plan


def test_async_from_a_profile_that_is_in_step():
    assert built("skyreels-v2-df-i2v", 25, "async") == diffusion_forcing(25, 5, 50, 5)


def test_a_rolling_schedule_of_a_short_video_is_one_window():
    assert built("skyreels-v2-df", 10, "rolling") == diffusion_forcing(10, 5, 50, 10, base_chunks=2)


def test_a_profile_may_renew_the_sink_or_ask_for_what_is_not_there():
    from dataclasses import replace

    profile = load_profile("longlive")
    assert plan_request(replace(profile, recache_sink=True), 25).renew_sink
    with pytest.raises(ValueError, match="independent_first_frame"):
        plan_request(replace(profile, independent_first_frame=True), 25)


def test_a_history_of_ones_own_replaces_the_profiles_window():
    assert built("longlive", 25, history=4) == sequential(25, 3, 4, history=History(4))
    assert built("rolling-forcing", 25, history=2, sink=1) == rolling(25, 3, 5, History(2, 1))


@pytest.mark.parametrize(("profile", "words", "changes", "value"), [
    ("skyreels-v2-df", ["spiral"], {}, "'spiral'"), ("longlive", ["async"], {}, "profile longlive"),
    ("skyreels-v2-df", ["sync"], {"ar_step": 3}, "ar_step of 3"),
    ("skyreels-v2-df", ["async"], {"plan": "dense"}, "one of the two"),
    ("skyreels-v2-df", ["rolling"], {"ar_step": 4}, "ar_step 4"), ("demo", [], {"plan": "spiral"}, "'spiral'")])
def test_words_that_make_no_schedule(profile, words, changes, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        built(profile, 40, *words, **changes)
    assert value in str(error.value) and "\n" not in str(error.value)
