"""Small vectors of our own making, in the layout of the reference vectors: plain loops over the published rules.

They keep the rules tested where the reference vectors are not at hand. They prove nothing about the authors'
implementation.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conformance.own_rules import content_rule, selections, time_rule

Case = dict[str, Any]


def write(folder: Path, seed: int = 0) -> Path:
    """Writes all packs into `folder`; with another seed other numbers and sizes."""
    for name, (members, tensors) in {"schedule_diffusion_forcing": schedules(seed), "window_plan": windows(),
                                     "unipc_trace": solver(seed), "reuse_time_modulation": time_rule(seed),
                                     "reuse_embedding_distance": content_rule(seed),
                                     "kv_select_own": selections(seed)}.items():
        file = {"file": f"{name}.safetensors"} if tensors else {}
        (folder / f"{name}.json").write_text(json.dumps({"source": "our own", **file, **members}))
        if tensors:
            save_file(tensors, folder / f"{name}.safetensors")
    return folder


def schedules(seed: int) -> tuple[Case, dict[str, Tensor]]:
    cases, more = [], seed % 7
    for number, (count, steps, ar_step, prefix) in enumerate((
            (5, 10 + more, 2 + more, 0), (3 + more, 6, 0, 1), (1, 4 + more, 5, 0), (4, 7, 7, 1 + more % 2))):
        cases.append({"id": f"own_{number}", "num_latent_frames": 2 * count, "num_steps": steps, "shift": 8.0,
                      "base_frames": 2 * count, "ar_step": ar_step, "prefix_frames": 2 * prefix, "block": 2,
                      "expected": schedule(count, steps, ar_step, prefix)})
    return {"cases": cases, "flow_unipc_tables": [sigma_table(10 + more, 8.0), sigma_table(7, 3.0 + more)]}, {}


def schedule(count: int, steps: int, ar_step: int, prefix: int) -> Case:
    state = [steps + 1] * prefix + [0] * (count - prefix)
    rows, masks = [], []
    while any(r < steps for r in state):
        new = []
        for i, r in enumerate(state):
            new.append(r + 1 if i == 0 or state[i - 1] >= steps else new[i - 1] - ar_step)
        new = [min(max(r, 0), steps + 1) for r in new]
        masks.append([int(a != b and a != steps + 1) for a, b in zip(new, state, strict=True)])
        rows.append(new)
        state = new
    return {"rows": len(rows), "blocks": count, "step_index": rows, "update_mask": masks,
            "valid_interval": [[0, 2 * count]] * len(rows)}


def sigma_table(steps: int, shift: float) -> Case:
    last = float(torch.tensor(0.999))
    s = [last * (1 - i / steps) for i in range(steps)]
    sigmas = [shift * value / (1 + (shift - 1) * value) for value in s]
    return {"num_steps": steps, "shift": shift, "timesteps": [int(1000 * sigma) for sigma in sigmas],
            "sigmas": torch.tensor([*sigmas, 0.0], dtype=torch.float64).float().tolist()}


def windows() -> tuple[Case, dict[str, Tensor]]:
    return {"cases": [
        {"id": "own_two", "num_frames": 177, "base_num_frames": 97, "overlap_history": 17, "block": 5,
         "expected": {"windows": [{"frames": 25, "prefix_frames": 0}, {"frames": 25, "prefix_frames": 5}],
                      "total_latent_frames": 45, "output_pixel_frames": 177}},
        {"id": "own_short", "num_frames": 97, "base_num_frames": 97, "overlap_history": 17, "block": 5,
         "expected": {"error": "short_path_unsupported"}}]}, {}


def solver(seed: int) -> tuple[Case, dict[str, Tensor]]:
    torch.manual_seed(3 + seed)
    steps = 6 + seed % 9
    case, tensors = {"id": "own_unipc", "num_steps": steps, "shift": 5.0}, {}
    outputs = torch.randn(steps, 4, 3, 2)
    samples = unipc(torch.randn(4, 3, 2), outputs, sigma_table(steps, 5.0)["sigmas"])
    tensors = {"own_unipc.model_outputs": outputs, "own_unipc.samples": torch.stack(samples)}
    return {"cases": [case]}, tensors


def unipc(x: Tensor, outputs: Tensor, sigmas: list[float]) -> list[Tensor]:
    """Order 2, in double precision, one step after another as the formulas stand."""
    steps, x, samples = len(outputs), x.double(), [x]
    lam = [math.log((1 - s) / s) if s else math.inf for s in sigmas]
    m, order, start = [], 0, x
    for i in range(steps):
        m.append(x - sigmas[i] * outputs[i].double())
        if i > 0:   # corrector
            h = lam[i] - lam[i - 1]
            phi = math.expm1(-h)
            x = sigmas[i] / sigmas[i - 1] * start - (1 - sigmas[i]) * phi * m[i - 1]
            if order == 1:
                x = x - (1 - sigmas[i]) * phi * 0.5 * (m[i] - m[i - 1])
            else:
                rk = (lam[i - 2] - lam[i - 1]) / h
                hk = phi / -h - 1
                b = torch.tensor([hk / phi, 2 * (hk / -h - 0.5) / phi], dtype=torch.float64)
                r1, r2 = torch.linalg.solve(torch.tensor([[1, 1], [rk, 1]], dtype=torch.float64), b).tolist()
                x = x - (1 - sigmas[i]) * phi * (r1 * (m[i - 2] - m[i - 1]) / rk + r2 * (m[i] - m[i - 1]))
        order, start = min(2, steps - i, i + 1), x
        if i == steps - 1:
            x = m[i]
        else:   # predictor
            h = lam[i + 1] - lam[i]
            phi = math.expm1(-h)
            after = sigmas[i + 1] / sigmas[i] * x - (1 - sigmas[i + 1]) * phi * m[i]
            if order == 2:
                after = after - (1 - sigmas[i + 1]) * phi * 0.5 * (m[i - 1] - m[i]) / ((lam[i - 1] - lam[i]) / h)
            x = after
        samples.append(x.float())
    return samples
