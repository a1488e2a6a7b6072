"""Load AR LoRA."""

from typing import Any

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
from comfy_api.latest import io

from .declare import given, schema

PREFIXES = ("base_model.model.diffusion_model.", "base_model.model.model.", "base_model.model.", "diffusion_model.",
            "model.")
HOST = "diffusion_model."


def host_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """Under the names that the host patches: those of the network, after `diffusion_model.`."""
    out = {}
    for name, value in tensors.items():
        prefix = next((p for p in PREFIXES if name.startswith(p)), "")
        out[HOST + name.removeprefix(prefix).replace(".default.weight", ".weight")] = value
    return out


def patched(model: Any, tensors: dict[str, Any], strength: float, name: str) -> Any:
    """A clone with the LoRA on it. Raises ValueError where none of its weights is the model's."""
    for part in ("generator_lora", "lora", "state_dict"):
        tensors = tensors[part] if isinstance(tensors.get(part), dict) else tensors
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    loaded = comfy.lora.load_lora(host_names(tensors), keys)
    clone = model.clone()
    if not loaded or not clone.add_patches(loaded, strength):
        raise ValueError(f"{name}: none of its {len(tensors)} tensors belongs to this model; give a LoRA that was made "
                         "for it")
    return clone


class LoadARLoRA(io.ComfyNode):
    """LongLive and others publish LoRAs under names that ComfyUI's own loader does not match."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_LoadARLoRA", "Load AR LoRA",
            description="Puts a LoRA on an AR video model, whatever prefix its tensors have (PEFT's included). Works "
                        "before and after the FlowCache nodes.",
            search_aliases=["lora", "longlive", "peft", "flowcache"],
            inputs=[
                given(io.Model.Input, "model", tooltip="The model that the LoRA was made for."),
                given(io.Combo.Input, "file", options=folder_paths.get_filename_list("loras"),
                      tooltip="A LoRA in models/loras, safetensors or pt."),
                given(io.Float.Input, "strength", default=1.0, min=-10.0, max=10.0, step=0.05,
                      tooltip="How much of it: 1 is as published, 0 is none."),
            ],
            outputs=[io.Model.Output(display_name="MODEL")])

    @classmethod
    def execute(cls, model: Any, file: str, strength: float) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("loras", file)
        return io.NodeOutput(patched(model, comfy.utils.load_torch_file(path, safe_load=True), strength, file))
