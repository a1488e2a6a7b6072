"""The released SkyReels-V2 sampler end to end on its toy network: decisions, clean lists, key counts, kept tokens,
latents, of both windows of every case."""

import math

import pytest

from tests.conformance.golden import end_to_end, packs, tensors_of
from tests.conformance.rounding import check_choices, check_latents
from tests.conformance.skyreels import chosen, window_run


def snapshots(run):
    """Latents after every row and at the end, and the trace's passes by row."""
    last_pass = {id(row[-1]): number for number, row in enumerate(run.plan.rows)}
    seen = {}

    def on_progress(progress):
        if id(progress.last) in last_pass:
            seen[last_pass[id(progress.last)]] = run.video.latents.clone()

    seen["final"] = run.run(on_progress)
    return seen


def clean_lists(run, case, window):
    """The finished chunks of every stream after every call, as the release keeps its lists: a prefix joins when it has
    been seen, a chunk with its last step, and a compression leaves the last ids of the budget."""
    config = case["config"]
    limit = config["budget_block"] if config["use_compress"] else None
    joins = bool(window) and config["reuse"] and config["ar_step"] > 0
    lists, late = {stream: [] for stream in run.streams}, 0
    for call in range(len(run.plan.rows) * len(run.streams)):
        number, stream = call // len(run.streams), run.streams[call % len(run.streams)]
        if joins and call in (1, 2):
            lists[run.streams[call - 1]].append(0)
        for p in (p for p in run.trace.passes if p.row == number):
            lane = next((lane for lane in p.lanes if lane.stream == stream), None)
            if limit and len(lists[stream]) > limit and lane is not None and lane.decision == "compute":
                lists[stream], late = lists[stream][-limit:], late + 1
            if lane is not None and lane.step == config["num_steps"] - 1:
                lists[stream].append(lane.chunk)
        yield {stream: list(kept) for stream, kept in lists.items()}
    assert limit is None or late * run.backbone.sizes.layers == len(run.settings.compression.choices)


def replayed_calls(run, case, window):
    """What the trace says of every call (row, stream): chunks, steps, decisions, distances, accumulators, keys."""
    config = case["config"]
    acc = {stream: [0.0] * config["num_chunks"] for stream in run.streams}
    for number in range(len(run.plan.rows)):
        passes = [p for p in run.trace.passes if p.row == number]
        for stream in run.streams:
            call = {"chunks": [], "local_step": [], "computed": [], "d": [], "n_keys": []}
            for p in passes:
                lane = next((lane for lane in p.lanes if lane.stream == stream), None)
                computed = lane is None or lane.decision == "compute"
                call["chunks"].append(p.chunks[0])
                call["local_step"].append(p.steps[0] if p.steps else 0)
                call["computed"].append(int(computed))
                call["d"].append(lane and lane.distance)
                call["n_keys"] += [p.keys] if computed else []
                if lane is not None and config["reuse"]:
                    acc[stream][p.chunks[0]] = 0.0 if computed else lane.value
            yield {**call, "acc": list(acc[stream])}


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("name", packs("sky_e2e_*.json"))
def test_skyreels(name, window):
    case = end_to_end(name)
    tensors, expected = tensors_of(case, case["tensors"]), case["windows"][window]
    rounded = case["config"]["residual_dtype"] == "bfloat16"
    run = window_run(case, tensors, window)
    assert len(run.plan.rows) == expected["rows"]
    seen = snapshots(run)

    calls = list(replayed_calls(run, case, window))
    assert len(calls) == len(expected["calls"])
    for found, call in zip(calls, expected["calls"], strict=True):
        for key in ("chunks", "local_step", "computed", "n_keys"):
            assert found[key] == call[key], (call["call"], key)
        for ours, theirs in zip(found["d"], call.get("d", found["d"]), strict=True):
            assert theirs is None and ours is None or math.isclose(ours, theirs, abs_tol=5e-7), call["call"]
        assert found["acc"] == pytest.approx(call.get("acc", found["acc"]), abs=4e-5, rel=1e-5), call["call"]

    for kept, call in zip(clean_lists(run, case, window), expected["calls"], strict=True):
        for branch in ("cond", "uncond"):
            assert kept[f"{branch}#0"] == call.get(f"clean_{branch}", kept[f"{branch}#0"]), (call["call"], branch)

    def own_part(seen):
        own = slice(window * case["config"]["block"], None)
        return {row: latents[0][:, own] for row, latents in seen.items()}

    prefix = f"out.w{window}.latents_"
    rows = {key: key.removeprefix(prefix).removeprefix("row") for key in tensors if key.startswith(prefix)}
    given = {row if row == "final" else int(row): tensors[key][None] for key, row in rows.items()}
    check_latents(f"{name} window {window}", own_part(seen), own_part(given), 9e-2 if rounded else 1.3e-5,
                  lambda: own_part(snapshots(window_run(case, tensors, window))))
    check_choices(f"{name} window {window}", run.settings.compression, chosen(case, tensors, window))
