"""The policies: one file each, found by this folder."""

from flowcache_core.registry import discover

discover(__name__, __path__)
