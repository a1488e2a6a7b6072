"""Small vectors of our own making for the reuse rules and the KV selection; see `own.py`."""

from typing import Any

import torch
from torch import Tensor

TABLE = (-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2)   # 1.3B_ret
Case = dict[str, Any]


def time_rule(seed: int) -> tuple[Case, dict[str, Tensor]]:
    torch.manual_seed(4 + seed)
    cases, tensors = [], {}
    for number, (name, table, threshold) in enumerate((("1.3B_ret", TABLE, 0.1), ("linear", (0, 0, 0, 1, 0), 0.05))):
        steps, first = 20 + seed % 11, 5 - seed % 4
        e0, cutoff = torch.randn(steps, 6, 12 + seed % 5), steps - seed % 3 if seed else steps - 1
        for s in range(1, steps):
            e0[s] = e0[s - 1] * (1 + 0.002 * s) + 0.001 * s * torch.randn(e0.shape[1:])
        d, poly, acc, computed, total = [], [], [], [], 0.0
        for s in range(steps):
            distance = value = None
            if s < first or s >= cutoff:
                run, total = 1, 0.0
            else:
                distance = float((e0[s] - e0[s - 1]).abs().mean() / e0[s - 1].abs().mean())
                value = 0.0
                for c in table:
                    value = value * distance + c
                total += value
                run = int(total >= threshold)
                total = 0.0 if run else total
            for entries, entry in zip((d, poly, acc, computed), (distance, value, total, run), strict=True):
                entries.append(entry)
        tensors[f"own_{number}.e0"] = e0
        cases.append({"id": f"own_{number}", "kind": "own", "coefficients_name": name, "coefficients": list(table),
                      "threshold": threshold, "forced_first_steps": first, "cutoff": cutoff, "num_steps": steps,
                      "d": d, "poly": poly, "acc": acc, "computed": computed})
    return {"cases": cases, "coefficient_tables": {"1.3B_ret": list(TABLE)}}, tensors


def content_rule(seed: int) -> tuple[Case, dict[str, Tensor]]:
    torch.manual_seed(5 + seed)
    count, window, steps, warmup, threshold = 3 + seed % 4, 2 + seed % 2, 12 if seed % 2 else 8, 2, 0.3
    total = steps // window * (count + window - 1)
    rows, features, trace = [], [], []
    before: dict[int, Tensor] = {}
    acc, done = [0.0] * count, [0] * count
    for step in range(total):
        stage = step // (steps // window)
        chunks = list(range(max(0, stage - window + 1), min(count, stage + 1)))
        now = {c: before.get(c, torch.randn(16, 8)) + 0.1 * torch.randn(16, 8) for c in chunks}
        entry: Case = {"step": step, "chunks": chunks, "d": [], "reuse": []}
        for c in chunks:
            d, reuse = None, 0
            if step not in (0, total - 1) and c in before:
                if done[c] < warmup:
                    acc[c] = 0.0
                else:
                    d = float((now[c] - before[c]).abs().mean() / (before[c].abs().mean() + 1e-8))
                    reuse = int(acc[c] + d < threshold)
                    acc[c] = acc[c] + d if reuse else 0.0
            entry["d"].append(d)
            entry["reuse"].append(reuse)
            done[c] += 1
            rows.append([step, c])
            features.append(now[c])
        before = now
        trace.append({**entry, "acc": list(acc)})
    case = {"id": "own", "kind": "own", "num_chunks": count, "window": window, "chunk_offset": 0, "num_steps": steps,
            "threshold": threshold, "warmup_steps": warmup, "total_steps": total, "rows": rows, "trace": trace}
    return {"cases": [case]}, {"own.features": torch.stack(features)}


def selections(seed: int) -> tuple[Case, dict[str, Tensor]]:
    torch.manual_seed(6 + seed)
    n, heads, width, budget = 24 + 5 * (seed % 13), 2 + seed % 3, 8 + 4 * (seed % 3), 10 + seed % 7
    tensors = {name: torch.randn(rows, h, width) for name, rows, h in
               (("key", n + 8, heads), ("value", n + 8, heads), ("query", 12 + seed, 2 * heads))}
    importance, redundancy = importance_of(tensors, n), redundancy_of(tensors["key"][:n])
    score = 0.07 * importance - 0.93 * redundancy
    order = score.argsort(dim=-1, descending=True)[:, :budget]
    mask = torch.zeros(heads, n, dtype=torch.uint8).scatter_(1, order, 1)
    tensors |= {"importance": importance, "redundancy": redundancy, "score": score, "kept_mask": mask,
                "kept_order": order.int()}
    case = {"id": "own", "file": "kv_select_own.safetensors", "query": "query", "mix_lambda": 0.07, "kernel": 7,
            "budget": budget, "clean_tokens": n, "strategy": "token", "group_size": None,
            "tensors": {name: name for name in ("importance", "redundancy", "score", "kept_mask", "kept_order")}}
    return {"cases": [case]}, {name: t.contiguous() for name, t in tensors.items()}


def importance_of(tensors: dict[str, Tensor], n: int) -> Tensor:
    keys, queries = tensors["key"][:n], tensors["query"]
    out = torch.zeros(keys.shape[1], n)
    for head in range(keys.shape[1]):
        logits = torch.stack([queries[:, 2 * head + g] @ keys[:, head].T for g in range(2)]).amax(0)
        mean = (logits / keys.shape[2] ** 0.5).softmax(-1).mean(0)
        out[head] = torch.stack([mean[max(0, j - 3):j + 4].max() for j in range(n)])
    return out


def redundancy_of(keys: Tensor) -> Tensor:
    unit = keys / (keys.norm(dim=-1, keepdim=True) + 1e-8)
    like = torch.einsum("ihd,jhd->hij", unit, unit)
    return ((like.sum(1) - like.diagonal(dim1=1, dim2=2)) / len(keys)).softmax(-1)
