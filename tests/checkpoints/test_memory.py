"""Loading never holds the weights twice: measured in a process of its own, by its peak of resident memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.samples import save_shards, wan_tensors

ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import json, re, sys, torch
from pathlib import Path
from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.checkpoints import load_network, open_checkpoint
from flowcache_core.profiles import load_profile

def memory(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def measured(path, dtype):
    Path("/proc/self/clear_refs").write_text("5")   # the peak begins anew
    before, anonymous = memory("VmRSS"), memory("RssAnon")
    network = load_network(open_checkpoint(path), profile, dtype=dtype)
    return {"peak": memory("VmHWM") - before, "anonymous": memory("RssAnon") - anonymous,
            "weights": sum(p.numel() * p.element_size() for p in network.parameters())}

profile = load_profile("self-forcing")
with torch.device("meta"):
    WanTransformer(WanConfig(128, 1, 64, 1))
print(json.dumps([[measured(path, dtype) for dtype in (None, torch.bfloat16)] for path in sys.argv[1:]]))
"""
NAMES = ("plain.safetensors", "ema.pt", "shards")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What loading 76 MB of weights takes, by container: in the file's dtype, and in another."""
    folder = tmp_path_factory.mktemp("large")
    tensors = wan_tensors(dim=512, layers=4, ffn=1792, heads=4)
    save_file(tensors, folder / "plain.safetensors")
    torch.save({"generator_ema": {f"model.{name}": value for name, value in tensors.items()}}, folder / "ema.pt")
    save_shards(folder / "shards", tensors, 3)
    run = subprocess.run([sys.executable, "-c", MEASURE, *(str(folder / name) for name in NAMES)], cwd=ROOT,
                         capture_output=True, text=True, check=True)
    return dict(zip(NAMES, json.loads(run.stdout.splitlines()[-1]), strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="measures through /proc")
@pytest.mark.parametrize("name", NAMES)
def test_loading_never_takes_twice_the_size(name, measured):
    own, converted = measured[name]
    assert own["weights"] > 60e6 and converted["weights"] == own["weights"] // 2
    slack = 12e6   # a tensor, and pages of the interpreter
    assert own["anonymous"] < slack                                     # mapped, not copied
    assert own["peak"] < own["weights"] + slack
    assert converted["anonymous"] < converted["weights"] + slack        # the result, and one tensor at a time
    assert converted["peak"] < converted["weights"] + own["weights"] + slack   # what was read stays in the page cache
