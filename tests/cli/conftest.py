import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.profiles.reading import FOLDER


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A checkpoint of the real layout that runs in milliseconds."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_file(WanTransformer(WanConfig(dim=128, layers=1, ffn=64, heads=1)).state_dict(), path)
    return path


def profile_file(folder: Path, **changes) -> str:
    """A profile like that of the bundled model but for `changes`."""
    data = {**json.loads((FOLDER / "demo.json").read_text()), "name": "mine", **changes}
    (folder / "mine.json").write_text(json.dumps(data))
    return str(folder / "mine.json")
