"""What is this file, and what can be done with it? The `inspect` command."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .safetensors_file import read_header
from .wan_layout import config_of, differences, looks_like_wan

VAE_KEY = "decoder.middle.0.residual.0.gamma"


@dataclass(frozen=True)
class Inspection:
    """family: demo, wan, skyreels-v2-df or unknown. missing, unexpected: tensor names against the Wan2.1 layout."""

    file: str
    family: str
    variant: str
    parameters: int
    tensors: int
    dtype: str
    missing: list[str]
    unexpected: list[str]
    advice: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect_file(path: Path) -> Inspection:
    """Reads the header alone. Raises CheckpointError for what is no readable file."""
    header = read_header(path)
    dtype = ", ".join(sorted(header.dtypes)) or "none"

    def found(family: str, variant: str, advice: str, missing: list[str] | None = None,
              unexpected: list[str] | None = None) -> Inspection:
        return Inspection(str(path), family, variant, header.parameters, len(header.shapes), dtype, missing or [],
                          unexpected or [], advice)

    if not looks_like_wan(header.shapes):
        if VAE_KEY in header.shapes:
            return found("unknown", "Wan2.1 VAE layout", "a codec, not a transformer: it decodes latents")
        return found("unknown", "", "not a layout that this version reads: give a Wan2.1 text-to-video transformer")
    config = config_of(header.shapes)
    missing, unexpected, wrong = differences(header.shapes, config)
    variant = f"width {config.dim}, {config.layers} layers"
    if wrong or missing:
        return found("wan", variant, f"damaged or another variant: {(wrong + missing)[0]}; give a whole file",
                     missing, unexpected)
    if header.metadata.get("family") == "demo":
        return found("demo", variant, "the bundled model: generate uses it when no --model is given", missing,
                     unexpected)
    if config.fps:
        return found("skyreels-v2-df", variant, "SkyReels-V2 diffusion forcing with fps embedding; sample it with "
                     "plan diffusion_forcing", missing, unexpected)
    return found("wan", variant, "layout known, causality not: tensors cannot tell a causal model from plain Wan2.1",
                 missing, unexpected)
