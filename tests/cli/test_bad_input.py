import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowcache_core.cli import main

CASES = {
    "unknown policy": (["--policy", "magic"], ["magic", "flowcache", "every_nth"]),
    "unknown preset": (["--preset", "warp"], ["warp", "fast", "quality"]),
    "unknown predictor": (["--policy", "flowcache", "--predictor", "x"], ["'x'", "velocity", "residual"]),
    "unknown setting": (["--policy", "flowcache", "--set", "speed=1"], ["speed", "threshold"]),
    "setting out of range": (["--policy", "every_nth", "--set", "interval=0"], ["interval 0", "1"]),
    "setting of a wrong type": (["--policy", "every_nth", "--set", "interval=two"], ["'two'", "whole number"]),
    "negative threshold": (["--threshold", "-0.1"], ["-0.1"]),
    "threshold that is no number": (["--threshold", "0:0.1, 1+:abc"], ["'abc'", "position", "^"]),
    "threshold with a gap": (["--threshold", "0:0.1, 3+:0.2"], ["gap", "^"]),
    "threshold that ends early": (["--threshold", "0-1:0.1"], ["chunk 2", "2+:"]),
    "no chunks": (["--chunks", "0"], ["0", "at least 1"]),
    "negative chunks": (["--chunks", "-3"], ["-3"]),
    "no frames": (["--latent-frames", "0"], ["0 latent frames"]),
    "no steps": (["--steps", "0"], ["0 steps"]),
    "unknown plan": (["--plan", "spiral"], ["spiral", "sequential"]),
    "steps that do not fit": (["--plan", "pipelined", "--steps", "7", "--window", "2"], ["7 steps", "multiple"]),
    "unknown words": (["--prompt", "a pink elephant moving left"], ["pink", "elephant", "red"]),
    "a prompt without a shape": (["--prompt", "a red moving left"], ["shape", "COLOUR SHAPE"]),
    "a prompt too late": (["--prompt", "0: a red circle moving up; 9: a red circle moving up"], ["9", "0 to 2"]),
    "a budget that is too small": (["--kv-window", "1"], ["at least"]),
    "a budget without a unit": (["--kv-budget", "12"], ["'12'", "chunks"]),
    "two budgets": (["--kv-budget", "12 MB", "--kv-window", "3"], ["one of the two"]),
    "an unknown scorer": (["--kv-window", "2", "--kv-scorer", "taste"], ["'taste'", "key_norm", "packcache"]),
    "an unknown merger": (["--kv-window", "2", "--kv-merger", "glue"], ["'glue'", "tempcache"]),
    "a merger without a budget": (["--kv-merger", "tempcache"], ["tempcache", "--kv-budget"]),
    "a setting without its merger": (["--kv-window", "2", "--kv-merge-set", "similarity=0.8"],
                                     ["similarity=0.8", "--kv-merger"]),
    "a merger of whole frames": (["--kv-window", "2", "--kv-merger", "tempcache", "--kv-granularity", "frame"],
                                 ["'tempcache'", "'frame'", "token"]),
    "a merger's setting out of range": (["--kv-window", "2", "--kv-merger", "tempcache", "--kv-merge-set",
                                         "similarity=7"], ["similarity 7"]),
    "an unknown sparse method": (["--sparse", "magic"], ["'magic'", "annsa", "annca"]),
    "a setting without its method": (["--sparse-set", "keep=0.5"], ["keep=0.5", "--sparse"]),
    "a setting of either of two methods": (["--sparse", "annsa", "--sparse", "annca", "--sparse-set", "bits=4"],
                                           ["bits=4", "annsa.bits=VALUE"]),
    "an unknown setting of a method": (["--sparse", "annsa", "--sparse-set", "speed=9"], ["speed", "keep"]),
    "codes that are none": (["--sparse", "annca", "--sparse-set", "codes=morse"], ["'morse'", "lsh", "quant"]),
    "a share above 1": (["--sparse", "annsa", "--sparse-dense-steps", "30"], ["dense_steps 30"]),
    "preset and policy": (["--preset", "fast", "--policy", "off"], ["one of the two"]),
    "a missing model": (["--model", "nowhere.safetensors"], ["nowhere.safetensors", "no such file"]),
    "a missing trace": (["--policy", "replay", "--set", "trace=nowhere.json"], ["nowhere.json"]),
    "a negative guidance": (["--guidance", "-1"], ["-1"]),
    "a shift of zero": (["--shift", "0"], ["shift 0"]),
}


def refused(words, capsys):
    """The sentence on stderr of a run that must exit with 2."""
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    message = capsys.readouterr().err
    assert code == 2 and "Traceback" not in message, message
    return message


@pytest.mark.parametrize("case", CASES)
def test_one_clear_sentence_and_exit_code_2(case, tiny_model, tmp_path, capsys):
    words, expected = CASES[case]
    base = ["generate", "--chunks", "3", "--steps", "4", "--out", str(tmp_path / "out")]
    model = [] if "--model" in words else ["--model", str(tiny_model)]
    message = refused([*base, *model, *words], capsys)
    assert all(part in message for part in expected), message
    assert not list(tmp_path.glob("out/chunk-*"))


def test_an_output_folder_that_cannot_be_written_is_found_before_sampling(tiny_model, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    message = refused(["generate", "--model", str(tiny_model), "--out", str(tmp_path / "file" / "run")], capsys)
    assert "cannot be written" in message and "--out" in message


def damaged(kind: str, tiny_model: Path, tmp_path: Path) -> Path:
    path, data = tmp_path / f"{kind}.safetensors", tiny_model.read_bytes()
    if kind in ("truncated", "empty", "text"):
        path.write_bytes({"truncated": data[:len(data) // 2], "empty": b"", "text": b"not a model at all\n" * 9}[kind])
        return path
    tensors = load_file(tiny_model)
    if kind == "hole":
        del tensors["blocks.0.ffn.0.bias"]
    elif kind == "shape":
        tensors["head.head.weight"] = torch.zeros(7, 128)
    else:
        tensors = {"some.weight": torch.zeros(2)}
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(("kind", "expected"), [
    ("truncated", "not a whole safetensors file"), ("empty", "not a whole safetensors file"),
    ("text", "not a whole safetensors file"), ("hole", "blocks.0.ffn.0.bias"), ("shape", "head.head.weight"),
    ("other", "not those of a Wan2.1 model")])
def test_a_file_that_is_no_checkpoint(kind, expected, tiny_model, tmp_path, capsys):
    path = damaged(kind, tiny_model, tmp_path)
    message = refused(["generate", "--model", str(path), "--out", str(tmp_path / "out")], capsys)
    assert expected in message and path.name in message


@pytest.mark.parametrize("verb", [[], ["dance"], ["generate", "--wrong"], ["inspect"]])
def test_wrong_words(verb, capsys):
    assert "--help" in refused(verb, capsys)


def test_inspect_says_what_a_file_is(tiny_model, capsys):
    assert main(["inspect", str(tiny_model)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["family"] == "wan" and found["tensors"] == 42 and not found["missing"]
    assert "nowhere" in refused(["inspect", f"nowhere{os.sep}x.safetensors"], capsys)
