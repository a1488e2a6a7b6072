"""The canary: every part of ComfyUI that the bridge relies on, so that a change of the host is told at once."""

import ast
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest

NAMES = {
    "comfy.latent_formats": ["Wan21"],
    "comfy_api.latest": ["ComfyExtension", "io", "ui"],
    "comfy.ldm.wan.model": ["WanModel", "sinusoidal_embedding_1d"],
    "comfy.ldm.wan.vae": ["WanVAE"],
    "comfy.model_management": ["InterruptProcessingException", "intermediate_device", "load_models_gpu",
                               "throw_exception_if_processing_interrupted"],
    "comfy.model_patcher": ["ModelPatcher", "create_model_options_clone"],
    "comfy.patcher_extension": ["WrappersMP", "WrapperExecutor", "add_wrapper_with_key"],
    "comfy.sample": ["fix_empty_latent_channels", "prepare_noise"],
    "comfy.sampler_helpers": ["convert_cond"],
    "comfy.samplers": ["CFGGuider", "Sampler", "calc_cond_batch", "ksampler", "process_conds"],
    "comfy.sd": ["CLIP", "VAE", "load_diffusion_model_state_dict"],
    "comfy.lora": ["load_lora", "model_lora_keys_unet"],
    "comfy.utils": ["PROGRESS_BAR_ENABLED", "ProgressBar", "common_upscale", "load_torch_file"],
    "folder_paths": ["get_filename_list", "get_full_path_or_raise", "get_output_directory"],
    "latent_preview": ["Latent2RGBPreviewer", "get_previewer", "prepare_callback"],
}
ATTRIBUTES = {
    "comfy.patcher_extension.WrappersMP": ["OUTER_SAMPLE", "PREPARE_SAMPLING", "PREDICT_NOISE", "CALC_COND_BATCH",
                                           "DIFFUSION_MODEL"],
    "comfy.ldm.wan.model.WanModel": ["forward_orig", "rope_encode"],
    "comfy.model_base.BaseModel": ["get_dtype", "memory_required", "process_latent_in", "process_latent_out"],
    "comfy.model_patcher.ModelPatcher": ["add_patches", "add_wrapper_with_key", "clone", "get_model_object",
                                         "get_wrappers"],
    "comfy.sd.VAE": ["decode", "encode"],
    "comfy.samplers.CFGGuider": ["predict_noise", "sample", "set_cfg", "set_conds"],
}
PARAMETERS = {
    "comfy.ldm.wan.model.WanModel.rope_encode": ["t_start", "device", "dtype"],
    "comfy.ldm.wan.model.WanModel._forward": ["x", "timestep", "context", "transformer_options"],
    "comfy.samplers.calc_cond_batch": ["model", "conds", "x_in", "timestep", "model_options"],
    "comfy.samplers.Sampler.max_denoise": ["model_wrap", "sigmas"],
    "comfy.samplers.process_conds": ["model", "noise", "conds", "device", "latent_image", "denoise_mask", "seed"],
    "comfy.sd.CLIP.__init__": ["no_init"],
    "comfy.lora.load_lora": ["lora", "to_load"],
    "comfy.utils.common_upscale": ["samples", "width", "height", "upscale_method", "crop"],
    "comfy.samplers.CFGGuider.sample": ["noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback",
                                        "disable_pbar", "seed"],
}


WITHOUT_DEMO = {"latent_preview.Latent2RGBPreviewer.__init__": ["latent_rgb_factors_reshape"]}   # from 0.21 on
EITHER = ("comfy_execution.graph_utils", "comfy_execution.graph")   # where ExecutionBlocker is
ON_OBJECTS = {
    "model": ["load_device", "model", "model_options", "object_patches", "patches", "wrappers"],
    "network": ["dim", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "patch_embedding",
                "patch_size", "rope_embedder.theta", "text_dim", "time_embedding", "time_projection"],
    "sampling": ["multiplier", "noise_scaling", "timestep"],
    "guider": ["cfg", "conds", "inner_model", "model_options", "model_patcher", "original_conds"],
    "vae": ["device", "first_stage_model.conv2", "first_stage_model.decoder", "memory_used_decode", "output_device",
            "patcher", "process_output", "vae_dtype"],
}
ROOTS = ("comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview")


def used(root: Path) -> set[tuple[str, str]]:
    """Module and name of everything that the nodes import from the host, or reach through one of its modules."""
    found = set()
    for path in (root / "nodes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] in ROOTS:
                found |= {(node.module, name.name) for name in node.names}
            elif isinstance(node, ast.Attribute) and ast.unparse(node).partition(".")[0] in ROOTS:
                words = ast.unparse(node).split(".")
                at = next(i for i in range(len(words), 0, -1) if ".".join(words[:i]) in sys.modules)
                if at < len(words):
                    found.add((".".join(words[:at]), words[at]))
    return found


def test_every_name_that_the_nodes_take_from_the_host_is_listed(pack, root):
    names = used(root)
    assert ("comfy.samplers", "CFGGuider") in names and ("comfy_api.latest", "io") in names
    assert not sorted(name for name in names if name[0] not in EITHER and name[1] not in NAMES.get(name[0], []))


def test_what_the_bridge_asks_of_objects_is_there(pack, version):
    import comfy.samplers

    from tests.nodes import tiny

    loading = importlib.import_module(f"{pack.__name__}.nodes.loading")
    model, seen = tiny.load(), {}

    class Guider(comfy.samplers.CFGGuider):
        def predict_noise(self, *args, **kwargs):
            seen.update({name: hasattr(self, name) for name in ON_OBJECTS["guider"]})
            return super().predict_noise(*args, **kwargs)

    tiny.sample(model, tiny.ksampler(), tiny.sigmas(1), guider=Guider(model))
    assert seen and all(seen.values()), seen
    objects = {"model": model, "network": model.model.diffusion_model, "sampling": model.model.model_sampling}
    if version >= (0, 21):
        objects["vae"] = loading.load_demo({})[2]
        for path, names in WITHOUT_DEMO.items():
            assert set(names) <= set(inspect.signature(find(path)).parameters)
    missing = []
    for name, found in objects.items():
        for path in ON_OBJECTS[name]:
            part = found
            for word in path.split("."):
                part = getattr(part, word, None)
            missing += [f"{name}.{path}"] if part is None else []
    assert not missing
    assert any(hasattr(importlib.import_module(path), "ExecutionBlocker") for path in EITHER
               if importlib.util.find_spec(path))


def find(path: str):
    module, rest = path, []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ImportError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
            assert module, f"ComfyUI has no {path}"
    for name in rest:
        assert hasattr(found, name), f"ComfyUI has no {path}"
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("path", [*NAMES, *ATTRIBUTES])
def test_names_that_the_bridge_uses_are_there(pack, path):
    found = find(path)
    assert not [name for name in {**NAMES, **ATTRIBUTES}[path] if not hasattr(found, name)]


@pytest.mark.parametrize("path", PARAMETERS)
def test_parameters_that_the_bridge_passes_are_there(pack, path):
    known = inspect.signature(find(path)).parameters
    assert not [name for name in PARAMETERS[path] if name not in known]


def test_blocks_are_replaced_and_attention_is_overridden_as_the_bridge_expects(pack):
    """What a block patch is given, and in which order a block calls attention."""
    import torch

    from tests.nodes import tiny

    model, seen = tiny.load(), []

    def block(args, extra):
        assert set(args) >= {"img", "txt", "vec", "pe", "transformer_options"} and "original_block" in extra
        assert args["vec"].ndim == 4 and args["pe"].shape[0] == 1 and args["pe"].shape[1] == args["img"].shape[1]
        seen.append("block")
        return extra["original_block"](args)

    def override(func, q, k, v, heads, *args, **kwargs):
        assert q.ndim == 3 and "transformer_options" in kwargs
        seen.append("self" if q.shape[1] == k.shape[1] else "cross")
        return func(q, k, v, heads, *args, **kwargs)

    model.set_model_patch_replace(block, "dit", "double_block", 0)
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    tiny.sample(model, tiny.ksampler(), torch.tensor([1.0, 0.0]))
    assert seen == ["block", "self", "cross", "self", "cross"]
