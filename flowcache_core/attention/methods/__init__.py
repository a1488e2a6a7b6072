"""The sparse methods: one file each, found by this folder."""

from ...registry import discover

discover(__name__, __path__)
