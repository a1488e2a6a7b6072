"""What the suite does with folders of other makes."""

import json

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
