"""Recognise and read checkpoint files."""

from flowcache_core.checkpoints.inspection import Inspection, inspect_file
from flowcache_core.checkpoints.safetensors_file import CheckpointError, read_header, read_tensors
from flowcache_core.checkpoints.wan_layout import checked_config, config_of

__all__ = ["CheckpointError", "Inspection", "checked_config", "config_of", "inspect_file", "read_header", "read_tensors"]
