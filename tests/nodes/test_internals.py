"""The canary: every part of ComfyUI that the bridge relies on, so that a change of the host is told at once."""

import importlib
import inspect

import pytest

NAMES = {
    "comfy.ldm.wan.model": ["WanModel", "sinusoidal_embedding_1d"],
    "comfy.ldm.wan.vae": ["WanVAE"],
    "comfy.model_management": ["InterruptProcessingException", "intermediate_device", "load_models_gpu",
                               "throw_exception_if_processing_interrupted"],
    "comfy.model_patcher": ["ModelPatcher", "create_model_options_clone"],
    "comfy.patcher_extension": ["WrappersMP", "WrapperExecutor", "add_wrapper_with_key"],
    "comfy.sample": ["fix_empty_latent_channels", "prepare_noise"],
    "comfy.sampler_helpers": ["convert_cond"],
    "comfy.samplers": ["CFGGuider", "Sampler", "calc_cond_batch", "process_conds"],
    "comfy.sd": ["CLIP", "VAE", "load_diffusion_model_state_dict"],
    "comfy.lora": ["load_lora", "model_lora_keys_unet"],
    "comfy.utils": ["PROGRESS_BAR_ENABLED", "ProgressBar", "common_upscale", "load_torch_file"],
    "folder_paths": ["get_filename_list", "get_full_path_or_raise"],
    "latent_preview": ["prepare_callback"],
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
    "comfy.samplers.CFGGuider.sample": ["noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback",
                                        "disable_pbar", "seed"],
}


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
