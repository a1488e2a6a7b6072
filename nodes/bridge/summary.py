"""One run in one sentence."""

from collections import Counter

from ...flowcache_core.trace import Trace


def sentence(trace: Trace) -> str:
    """`computed 120 of 200 chunk steps (60 %) in 34.1 s, KV cache 12.3 MB`, why nothing was skipped, and
    the run's notes."""
    summary = trace.summary()
    text = (f"computed {summary['computed']} of {summary['chunk_steps']} chunk steps "
            f"({100 * trace.computed_share:.0f} %) in {summary['seconds']:.1f} s")
    if trace.kv_peak_bytes:
        text += f", KV cache {trace.kv_peak_bytes / 1e6:.1f} MB"
    reasons = Counter(lane.reason for p in trace.passes for lane in p.lanes)
    if trace.settings["policy"] != "off" and trace.computed_share == 1 and reasons:
        reason, count = reasons.most_common(1)[0]
        text += (f"; policy {trace.settings['policy']} skipped nothing: {reason} ({count} of {sum(reasons.values())} "
                 "decisions)")
    return "; ".join([text, *trace.notes])
