"""Family data and presets: JSON with provenance, read into frozen values."""

from .presets import Preset, load_preset, preset_names
from .profile import Profile
from .reading import load_profile, profile_names

__all__ = ["Preset", "Profile", "load_preset", "load_profile", "preset_names", "profile_names"]
