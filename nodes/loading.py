"""From a file, or the bundled demo, to the host's model, text encoder and codec."""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch

from ..flowcache_core.checkpoints import open_checkpoint, recognise
from ..flowcache_core.demo.bundle import CODEC, TRANSFORMER
from ..flowcache_core.demo.text import DemoTextEncoder
from ..flowcache_core.profiles import Profile, load_profile
from .bridge.demo_preview import show_decoded
from .bridge.outer import attach

DEMO = "demo (bundled)"
FOLDER = "diffusion_models"
AUTO = "auto"
DTYPES = {"default": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
          "fp8_e4m3fn": torch.float8_e4m3fn}


class DemoClip(comfy.sd.CLIP):
    """The bundled text encoder with the face of the host's: it has no weights, so nothing is loaded or patched."""

    def __init__(self) -> None:
        super().__init__(no_init=True)
        self._encoder = DemoTextEncoder()

    def clone(self, *args: Any, **kwargs: Any) -> "DemoClip":
        return self

    def tokenize(self, text: str, *args: Any, **kwargs: Any) -> dict[str, str]:
        return {"text": text}

    def encode_from_tokens(self, tokens: dict[str, str], return_pooled: bool = False, return_dict: bool = False) -> Any:
        rows = self._encoder.encode(tokens["text"])
        if return_dict:
            return {"cond": rows, "pooled_output": None}
        return (rows, None) if return_pooled else rows

    def encode_from_tokens_scheduled(self, tokens: dict[str, str], *args: Any, **kwargs: Any) -> list:
        return [[self.encode_from_tokens(tokens), {"pooled_output": None}]]

    def add_patches(self, *args: Any, **kwargs: Any) -> list:
        raise ValueError("the demo's text encoder has no weights to patch: connect the LoRA to the model alone")


def file_names() -> list[str]:
    """The bundled demo first, then the files of ComfyUI's folder for diffusion models."""
    return [DEMO, *folder_paths.get_filename_list(FOLDER)]


def load_demo(options: dict[str, Any]) -> tuple[Any, DemoClip, comfy.sd.VAE, str]:
    model = _model(dict(comfy.utils.load_torch_file(str(TRANSFORMER))), {"dtype": torch.float32, **options}, {})
    return attach(show_decoded(model), profile=load_profile("demo")), DemoClip(), _demo_vae(), "bundled demo model"


def _demo_vae() -> comfy.sd.VAE:
    try:
        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(CODEC)))
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise ValueError("this ComfyUI loads Wan VAEs of one size only, and the demo's is smaller: update to 0.21 or "
                         "newer for the demo; other models work") from error


def load_file(name: str, profile_name: str, weights: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Model with its profile, and what was recognised. Raises ValueError for a file that is none of an AR model."""
    path = Path(folder_paths.get_full_path_or_raise(FOLDER, name))
    checkpoint = open_checkpoint(path, None if weights == AUTO else weights)
    found = recognise(checkpoint)
    if found.family in ("unknown", "wan-unsupported", "magi-1"):
        raise ValueError(f"{name}: {found.variant or 'its tensors are not those of a Wan2.1 model'}; give a Wan2.1 "
                         "text-to-video, SkyReels-V2 DF or Self-Forcing checkpoint")
    if found.faults:
        raise ValueError(f"{name}: {found.faults} (against the layout of {found.variant}); give a whole file")
    profile = _profile(name, profile_name, found.profile)
    if weights == AUTO and profile.weights != "ema":
        checkpoint = open_checkpoint(path, prefer=profile.weights)
    model = _model(folded(checkpoint.state_dict(), profile), options, dict(checkpoint.metadata), profile)
    return attach(model, profile=profile), f"{found.family}: {found.variant}"


def _profile(name: str, asked: str, recognised: str) -> Profile:
    if asked == AUTO and not recognised:
        raise ValueError(f"{name}: a Wan2.1 model whose family its tensors do not tell; choose its profile")
    return load_profile(recognised if asked == AUTO else asked)


def folded(tensors: dict[str, torch.Tensor], profile: Profile) -> dict[str, torch.Tensor]:
    """With SkyReels' frame rate in a bias, since the host's network has no embedding of it."""
    if not any(name.startswith("fps_") for name in tensors):
        return tensors
    from ..flowcache_core.backbones.fps import fps_delta

    bias = tensors["time_projection.1.bias"]
    kept = {name: value for name, value in tensors.items() if not name.startswith("fps_")}
    return {**kept, "time_projection.1.bias": (bias.float() + fps_delta(tensors, profile.fps)).to(bias.dtype)}


def _model(tensors: dict[str, torch.Tensor], options: dict[str, Any], metadata: dict[str, str],
           profile: Profile | None = None) -> Any:
    """The host's model. Of the Self-Forcing kin it is told that they are causal, so that its own sampler works too."""
    known = inspect.signature(comfy.sd.load_diffusion_model_state_dict).parameters
    if profile is not None and profile.family == "wan-causal":
        metadata = {**metadata, "config": json.dumps({"transformer": {"causal_ar": True}})}
    more = {"metadata": metadata} if "metadata" in known else {}
    model = comfy.sd.load_diffusion_model_state_dict(tensors, model_options=options, **more)
    if model is None:
        raise ValueError("this ComfyUI does not recognise the model; update it, or give another file")
    return model


def changed(name: str) -> str:
    """What the host compares to know whether a file is the same."""
    if name == DEMO:
        return DEMO
    info = os.stat(folder_paths.get_full_path_or_raise(FOLDER, name))
    return f"{info.st_mtime_ns} {info.st_size}"
