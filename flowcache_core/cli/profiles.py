"""`profiles [NAME]`: the built-in profiles, or one with its sources; a copy to change."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..profiles import load_profile, preset_names, profile_names
from ..profiles.reading import profile_data


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("profiles", help="list the profiles of model families, show or copy one")
    parser.add_argument("name", nargs="?", help="show this one, or check a .json file of your own")
    parser.add_argument("--out", type=Path, help="copy it to this .json file, to change and use as --profile FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.name is None:
        if args.out is not None:
            raise ValueError(f"--out {args.out}: name the profile to copy")
        profiles = [load_profile(name) for name in profile_names()]
        for p in profiles:
            print(f"{p.name:<28} {p.title}")
        return {"profiles": [p.name for p in profiles]}
    profile = load_profile(args.name)
    data = profile_data(profile)
    for field, value in data.items():
        if field not in ("source", "sources"):
            print(f"{field:<24} {value}{'   ' + profile.sources[field] if field in profile.sources else ''}")
    print(f"{'source':<24} {profile.source}\n{'presets':<24} {', '.join(preset_names(profile))}")
    if args.out is not None:
        copy(args.out, {**data, "name": args.out.stem})
    return {**data, "copy": str(args.out) if args.out else None}


def copy(path: Path, data: dict[str, Any]) -> None:
    if path.suffix != ".json" or path.exists():
        raise ValueError(f"--out {path}: " + ("exists; choose another name" if path.exists() else
                                              "give a file that ends in .json"))
    try:
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--out {path}: cannot be written ({error.strerror}); choose another folder") from error
