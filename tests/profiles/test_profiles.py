import json
from dataclasses import fields, replace

import pytest

from flowcache_core.profiles import Profile, load_preset, load_profile, preset_names, profile_names
from flowcache_core.profiles.schedule import first_table, profile_history, run_guidance, step_table
from flowcache_core.reuse.policies.off import Off

NAMES = profile_names()
VARIANTS = {"demo", "magi-1", "magi-1-base", "skyreels-v2-df", "skyreels-v2-df-i2v", "skyreels-v2-df-14b-540p",
            "skyreels-v2-df-14b-540p-i2v", "skyreels-v2-df-14b-720p", "skyreels-v2-df-14b-720p-i2v", "self-forcing",
            "causvid", "causal-forcing", "causal-forcing-framewise", "causal-forcing-2step", "causal-forcing-1step",
            "longlive", "rolling-forcing", "ar-diffusion"}


def test_every_variant_has_a_profile():
    assert set(NAMES) >= VARIANTS


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_makes_a_run(name):
    profile = load_profile(name)
    assert profile.name == name and profile.source and profile.title
    assert step_table(profile, profile.steps, profile.shift).steps == profile.steps
    assert run_guidance(profile, profile.guidance) is not None
    recent, sink = profile_history(profile)
    assert (recent is None) == (profile.window_frames is None)
    assert set(profile.sources) <= {f.name for f in fields(Profile)}


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_has_the_four_presets_with_their_provenance(name):
    profile = load_profile(name)
    assert {"off", "quality", "balanced", "fast"} <= set(preset_names(profile))
    for preset in preset_names(profile):
        made = load_preset(profile, preset)
        assert made.provenance.get("source") or made.provenance.get("command")
        if profile.few_steps and preset != "off":
            assert made.policy == Off() and "nothing to" in made.note
    off = load_preset(profile, "off")
    assert off.policy == Off() and off.budget.amount is None and not off.note


def test_the_levels_of_few_step_models():
    def rounded(name):
        return [round(t, 2) for t in step_table(load_profile(name), load_profile(name).steps,
                                                load_profile(name).shift).timesteps]

    assert rounded("self-forcing") == [1000, 937.5, 833.33, 625]
    assert rounded("causal-forcing-2step") == [1000, 833.33]
    assert rounded("rolling-forcing") == [1000, 952.38, 882.35, 769.23, 555.56]
    assert rounded("causvid") == [1000, 757, 522]
    assert [round(s, 4) for s in step_table(load_profile("causvid"), 3, 8).sigmas] == [1, 0.7568, 0.5217, 0]


def test_windows_in_chunks():
    assert profile_history(load_profile("longlive")) == (2, 1)           # 12 frames: sink, two more, its own
    assert profile_history(load_profile("rolling-forcing")) == (1, 1)    # 21: sink, one more, the window of five
    assert profile_history(load_profile("self-forcing")) == (None, 0)


def test_a_few_step_window_counts_in_the_chunks_of_its_profile():
    assert load_preset("self-forcing", "balanced").budget.amount == 4
    framewise = load_preset("causal-forcing-framewise", "balanced").budget
    assert (framewise.amount, framewise.sink_chunks) == (12, 3)


def test_a_list_of_steps_is_not_stretched():
    with pytest.raises(ValueError, match=r"8 steps: profile self-forcing lists the 4 steps 1000, 750"):
        step_table(load_profile("self-forcing"), 8, 5)


def written(tmp_path, **changes):
    data = json.loads(json.dumps({f.name: getattr(load_profile("self-forcing"), f.name) for f in fields(Profile)}))
    data = {**data, **changes}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "DROP"}))
    return str(path)


def test_a_copy_with_changes_is_a_profile(tmp_path):
    mine = load_profile(written(tmp_path, name="mine", step_list=[1000, 500], steps=2, latent=[30, 52]))
    assert mine == replace(load_profile("self-forcing"), name="mine", step_list=(1000, 500), steps=2, latent=(30, 52))


BAD = {
    "a text for a number": ({"shift": "five"}, ["shift 'five'", "a number"]),
    "no whole number": ({"chunk_frames": 2.5}, ["chunk_frames 2.5", "whole number", "frames a chunk"]),
    "a flag for a number": ({"steps": True}, ["steps True", "whole number"]),
    "not finite": ({"guidance": float("nan")}, ["guidance nan", "a number"]),
    "out of range": ({"fps": 0}, ["fps 0", "from 1 to 240"]),
    "an odd side": ({"latent": [61, 104]}, ["latent [61, 104]", "two even numbers"]),
    "three sides": ({"latent": [60, 104, 2]}, ["latent", "two even numbers"]),
    "an unknown family": ({"family": "hunyuan"}, ["family 'hunyuan'", "wan-causal"]),
    "an unknown plan": ({"plan": "spiral"}, ["plan 'spiral'", "sequential"]),
    "an unknown field": ({"speed": 3}, ["unknown field speed", "chunk_frames"]),
    "a missing field": ({"shift": "DROP"}, ["no shift"]),
    "steps and list apart": ({"steps": 3}, ["steps 3", "step_list of 4"]),
    "a list that rises": ({"step_list": [250, 500, 750, 1000]}, ["must fall"]),
    "a window too small": ({"window_frames": 4, "sink_frames": 3}, ["window_frames 4", "at least 6"]),
    "an overlap too long": ({"base_frames": 3, "overlap_pixel_frames": 17}, ["base_frames 3", "shorter"]),
    "a source of nothing": ({"sources": {"colour": "red"}}, ["sources of colour"]),
    "a source that is no text": ({"sources": {"steps": 4}}, ["sources", "object of texts"]),
    "null where none may be": ({"steps": None}, ["steps None", "whole number"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_profile_that_makes_no_sense(case, tmp_path):
    changes, expected = BAD[case]
    with pytest.raises(ValueError, match="mine.json") as refused:
        load_profile(written(tmp_path, **changes))
    assert all(part in str(refused.value) for part in expected), refused.value


@pytest.mark.parametrize(("text", "expected"), [(None, "no such file"), ("{", "no profile"), ("[1]", "JSON object")])
def test_a_file_that_is_no_profile(text, expected, tmp_path):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=expected):
        load_profile(str(path))


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="unknown profile 'x'.*self-forcing"):
        load_profile("x")
    with pytest.raises(ValueError, match="unknown preset 'x' of profile 'longlive'.*balanced"):
        load_preset("longlive", "x")
    with pytest.raises(ValueError, match="presets 'x': choose one of ar-diffusion"):
        load_preset(replace(load_profile("longlive"), presets="x"), "off")


def test_chunk_0_of_the_one_step_model_takes_four():
    from flowcache_core.plan import sequential

    profile = load_profile("causal-forcing-1step")
    plan = sequential(4, 1, 1, first_steps=4)
    assert first_table(profile, plan, profile.shift) == step_table(load_profile("self-forcing"), 4, 5)
