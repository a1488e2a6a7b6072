"""Recognise and read checkpoint files: what a file is, and the network that it makes."""

from .checkpoint import Checkpoint, open_checkpoint
from .inspection import Inspection, inspect_file
from .loading import load_network
from .lora import LoraPair, lora_pairs, open_lora
from .recognition import FAMILIES, Recognition, recognise
from .safetensors_file import read_header, read_tensors
from .stored import CheckpointError
from .vae import load_vae
from .wan_layout import checked_config, config_of

__all__ = ["FAMILIES", "Checkpoint", "CheckpointError", "Inspection", "LoraPair", "Recognition", "checked_config",
           "config_of", "inspect_file", "load_network", "load_vae", "lora_pairs", "open_checkpoint", "open_lora",
           "read_header", "read_tensors", "recognise"]
