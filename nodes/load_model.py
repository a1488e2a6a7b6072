"""Load AR Video Model."""

from comfy_api.latest import io

from ..flowcache_core.profiles import profile_names
from .declare import given, schema
from .loading import AUTO, DEMO, DTYPES, changed, file_names, load_demo, load_file


class LoadARVideoModel(io.ComfyNode):
    """The model, with what its family needs to be sampled right; for the demo also its text encoder and codec."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FlowCache_LoadARVideoModel", "Load AR Video Model",
            description="Loads an autoregressive video model, recognises its family and sets its profile. The bundled "
                        "demo brings CLIP and VAE along; for other files use ComfyUI's CLIP and VAE loaders.",
            search_aliases=["self-forcing", "skyreels", "causvid", "longlive", "causal wan", "flowcache", "demo"],
            inputs=[
                given(io.Combo.Input, "file", options=file_names(), default=DEMO,
                      tooltip="The bundled demo, or a checkpoint in models/diffusion_models: safetensors, pt, or "
                              "shards."),
                given(io.Combo.Input, "profile", options=[AUTO, *profile_names()], default=AUTO,
                      tooltip="How the model is sampled. auto recognises the family; choose one where it cannot."),
                given(io.Combo.Input, "weights", options=[AUTO, "ema", "raw"], default=AUTO, advanced=True,
                      tooltip="Which weights, where a file has averaged (ema) and raw ones. auto takes what its "
                              "authors "
                              "sample."),
                given(io.Combo.Input, "dtype", options=list(DTYPES), default="default", advanced=True,
                      tooltip="Precision of the weights. default is ComfyUI's choice; fp8 halves memory."),
            ],
            outputs=[io.Model.Output(display_name="MODEL"), io.Clip.Output(display_name="CLIP"),
                     io.Vae.Output(display_name="VAE"), io.String.Output(display_name="family")])

    @classmethod
    def execute(cls, file: str, profile: str, weights: str, dtype: str) -> io.NodeOutput:
        options = {} if DTYPES[dtype] is None else {"dtype": DTYPES[dtype]}
        if file == DEMO:
            return io.NodeOutput(*load_demo(options))
        model, found = load_file(file, profile, weights, options)
        return io.NodeOutput(model, None, None, found)

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: object) -> str:
        return changed(file)
