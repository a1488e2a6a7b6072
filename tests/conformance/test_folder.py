"""What the suite does with folders of other makes."""

import json
import subprocess
import sys

import pytest

from tests.conformance import golden, own

BAD = {"of another schema": {"cases": [{"id": "x"}]}, "no pack of reference vectors": ["x"]}


@pytest.mark.parametrize(("words", "content"), BAD.items())
def test_another_schema_is_refused_in_one_sentence(tmp_path, words, content):
    own.write(tmp_path)
    (tmp_path / "window_plan.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words) as error:
        golden.checked(tmp_path)
    assert "window_plan.json" in str(error.value) and "\n" not in str(error.value)


def test_a_pack_without_its_tensors_is_refused(tmp_path):
    own.write(tmp_path)
    (tmp_path / "unipc_trace.safetensors").unlink()
    with pytest.raises(ValueError, match=r"unipc_trace.json names unipc_trace.safetensors, and there is no such file"):
        golden.checked(tmp_path)


def suite(root, *words):
    """The whole suite on another folder."""
    start = "import runpy, sys; sys.path[:] = filter(None, sys.path); runpy.run_module('pytest', {}, '__main__', True)"
    return subprocess.run([sys.executable, "-c", start, "-q", "-p", "no:cacheprovider", "tests/conformance",
                           "--deselect", "tests/conformance/test_folder.py", *words], cwd=root, capture_output=True,
                          text=True)


def test_other_seeds_and_sizes_are_read_and_a_missing_folder_is_an_error(root, tmp_path):
    done = suite(root, "--golden", str(own.write(tmp_path, seed=8)))
    assert done.returncode == 0 and "conformance: " in done.stdout and "0 failed" in done.stdout, done.stdout
    assert "NOT CHECKED" not in done.stdout
    gone = suite(root, f"--golden={tmp_path / 'gone'}")
    assert gone.returncode == 2 and "no such folder; give the reference vectors" in gone.stdout + gone.stderr


def test_a_folder_without_packs_is_refused(tmp_path):
    (tmp_path / "readme.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no pack"):
        golden.checked(tmp_path)


def test_packs_are_found_wherever_they_lie(tmp_path, monkeypatch):
    (tmp_path / "seed-7").mkdir()
    monkeypatch.setenv("FLOWCACHE_GOLDEN", str(tmp_path))
    own.write(tmp_path / "seed-7")
    monkeypatch.setattr(golden, "folder", lambda: golden.checked(golden.asked()))
    case = golden.cases_of("kv_select_*.json")[0]
    assert golden.tensors_of(case)["key"].shape[0] > case["clean_tokens"]
