"""Recognise and read checkpoint files."""

from .inspection import Inspection, inspect_file
from .safetensors_file import CheckpointError, read_header, read_tensors
from .wan_layout import checked_config, config_of

__all__ = ["CheckpointError", "Inspection", "checked_config", "config_of", "inspect_file", "read_header",
           "read_tensors"]
