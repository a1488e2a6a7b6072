"""Options that say which network, codec and prompts a run is made with, and loading them."""

import argparse
import sys
from pathlib import Path

import torch

from ..backbones.backbone import Backbone
from ..checkpoints import Checkpoint, CheckpointError, Recognition, load_network, load_vae, open_checkpoint, recognise
from ..checkpoints.inspection import advice_for
from ..checkpoints.recognition import LOADABLE
from ..checkpoints.wan_layout import SIZES
from ..profiles import Profile, load_profile, profile_names
from ..protocols import Codec, TextEncoder
from ..text_file import TextFile

DEFAULT_PROFILE = "demo"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_ROWS = 512   # what Wan2.1 attends, padding included


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", type=Path, metavar="PATH", help="a checkpoint (.safetensors, .pt, .pth, or a folder "
                       "of shards) instead of the bundled model; docs/checkpoints.md")
    group.add_argument("--family", choices=LOADABLE, help="overrule what the checkpoint is recognised as")
    group.add_argument("--weights", choices=("ema", "raw"), help="which weights, where a file has averaged and raw "
                       "ones (default from the profile)")
    group.add_argument("--lora", type=Path, metavar="PATH", help="a LoRA in PEFT's form, merged into the model")
    group.add_argument("--lora-strength", type=float, help="1 is as trained (default 1)")
    group.add_argument("--dtype", choices=tuple(DTYPES), help="of the weights (default that of the file)")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda for --model where there is one, else "
                       "cpu)")
    group.add_argument("--vae", type=Path, metavar="FILE", help="the Wan2.1 VAE (.safetensors or .pth); without one "
                       "the latents are the result")
    group.add_argument("--text-embeddings", type=Path, metavar="FILE", help="embedded prompts (.safetensors with "
                       "prompt or prompt.0, prompt.3 ..., and negative) instead of --prompt; docs/checkpoints.md")


def choose_profile(args: argparse.Namespace) -> Profile:
    """The named profile, else the one that the checkpoint is recognised as being for, else that of the bundled model.
    Raises ValueError where several could be meant."""
    if args.profile is not None or args.model is None:
        return load_profile(args.profile or DEFAULT_PROFILE)
    checkpoint = open_checkpoint(args.model, args.weights)
    found = recognise(checkpoint, args.family)
    wan = found.family in ("wan", "skyreels-v2-df")
    own = wan and (found.config.dim, found.config.layers) not in SIZES   # of the bundled kind
    if own or found.faults or found.family in ("unknown", "wan-unsupported"):
        return load_profile(DEFAULT_PROFILE)   # loading says what does not fit
    if found.profile:
        return load_profile(found.profile)
    raise ValueError(f"{args.model}: {found.family}; {advice_for(checkpoint, found)}")


def load_backbone(args: argparse.Namespace, profile: Profile, steps: int) -> Backbone:
    """The network of a run of `steps`. Raises ValueError where checkpoint, profile and options do not fit."""
    from ..demo.bundle import TRANSFORMER

    if args.model is None:
        given = next((name for name in ("lora", "weights", "family") if getattr(args, name) is not None), None)
        if given or profile.family != "demo":
            raise ValueError(f"--{given} without --model: the bundled model has no use for it" if given else
                             f"profile {profile.name}: a model of its family is needed; give it with --model")
    if args.lora_strength is not None and args.lora is None:
        raise ValueError(f"--lora-strength {args.lora_strength:g} without --lora: name the LoRA too")
    dtype = DTYPES[args.dtype] if args.dtype else torch.float32 if profile.family == "demo" else None
    checkpoint = open_checkpoint(args.model or TRANSFORMER, args.weights, profile.weights)
    found = recognise(checkpoint, args.family)
    network = load_network(checkpoint, profile, found, steps, dtype, run_device(args), args.lora,
                           1.0 if args.lora_strength is None else args.lora_strength)
    say_other_profile(checkpoint, found, profile)
    return network


def say_other_profile(checkpoint: Checkpoint, found: Recognition, profile: Profile) -> None:
    """Says on stderr that a file's name hints at another built-in profile; variants of one model are not others."""
    named = found.profile and not (found.certain and found.family == "skyreels-v2-df")
    if named and profile.name in profile_names() and not profile.name.startswith(found.profile):
        print(f"{checkpoint.path}: its name hints at profile {found.profile}; it is sampled as {profile.name}",
              file=sys.stderr)


def run_device(args: argparse.Namespace) -> torch.device:
    """Where the networks are. Raises ValueError for a device that is not there."""
    if args.device is None:
        return torch.device("cuda" if args.model is not None and torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=args.device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {args.device!r}: not there ({str(error).splitlines()[0]}); choose cpu, or leave it "
                         "out") from error


def load_text(args: argparse.Namespace, profile: Profile, backbone: Backbone) -> TextEncoder:
    """The encoder of the run's prompts. Raises ValueError where the family needs a file of them and none is given."""
    from ..demo.text import DemoTextEncoder

    if args.text_embeddings is None:
        if profile.family != "demo":
            raise ValueError(f"profile {profile.name}: its text encoder is not part of this project; encode the "
                             "prompts elsewhere and give them with --text-embeddings FILE")
        return DemoTextEncoder()
    file = TextFile(args.text_embeddings)
    if profile.family == "magi-1":
        return file.read(backbone.config.caption_channels, backbone.config.caption_max_length, padded=False)
    return file.read(backbone.config.text_dim, TEXT_ROWS, padded=profile.family != "demo")


def codec_for(args: argparse.Namespace, profile: Profile) -> Codec | None:
    """The codec that decodes the run; None: its latents are the result. Raises ValueError."""
    from ..demo.bundle import CODEC

    if args.vae is not None and profile.family == "magi-1":
        raise CheckpointError(f"--vae {args.vae}: MAGI-1's latents are those of its own VAE, which this version does "
                              "not read; leave it out and keep the latents")
    if args.vae is None and profile.family != "demo":
        return None
    return load_vae(args.vae or CODEC, device=run_device(args))
