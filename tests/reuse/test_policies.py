"""The simple policies by hand."""

import json

import pytest

from flowcache_core.reuse import Kind
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.policies.off import Off
from flowcache_core.reuse.policies.replay import Replay
from tests.reuse.toy import step_info


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, "1101010101"), ({"interval": 3}, "1100100101"), ({"interval": 1}, "1111111111"),
    ({"interval": 4, "warmup_steps": 1, "last_steps": 0}, "1000100010"),
    ({"interval": 2, "last_steps": 3}, "1101010111"),
    ({"interval": 100}, "1100000001"), ({"warmup_steps": 50}, "1" * 10), ({"last_steps": 50}, "1" * 10)])
def test_every_nth(settings, expected):
    policy = EveryNth(**settings)
    assert "".join(str(int(policy.decide(None, step_info(s), None).computes)) for s in range(10)) == expected


def test_off_computes():
    assert all(Off().decide(None, step_info(s), None).computes for s in range(10))


def trace(tmp_path, passes):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"passes": passes}))
    return str(path)


def lane(step, decision):
    return {"chunk": 0, "step": step, "stream": "cond#0", "item": 0, "decision": decision}


def test_replay_does_what_the_trace_says(tmp_path):
    path = trace(tmp_path, [{"lanes": [lane(0, "compute")]}, {"lanes": []}, {"lanes": [lane(1, "reuse")]}])
    policy = Replay(trace=path)
    assert [policy.decide(None, step_info(s), None).kind for s in (0, 1)] == [Kind.COMPUTE, Kind.REUSE]
    with pytest.raises(ValueError, match=r"chunk 0, step 2.*cond#0.*item 0"):
        policy.decide(None, step_info(2), None)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"passes": [{"lanes": [{"chunk": 0}]}]}', "\x00\xff",
                                  json.dumps({"passes": [{"lanes": [lane(0, "guess")]}]})])
def test_a_file_that_is_no_trace_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"other\.json.* is no trace"):
        Replay(trace=str(path))


@pytest.mark.parametrize("name", ["", "missing.json", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot read the trace .* give the path"):
        Replay(trace=str(tmp_path / name) if name else "")
