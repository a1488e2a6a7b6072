import pytest
import torch
from safetensors.torch import save_file

from flowcache_core.text_file import TextFile

WIDTH = 6


def opened(folder, tensors, padded=True):
    path = folder / "text.safetensors"
    save_file({name: value.clone() for name, value in tensors.items()}, path)
    file = TextFile(path)
    return file, file.read(WIDTH, 8, padded)


def test_one_prompt_for_all_chunks_padded_with_zeros(tmp_path):
    rows = torch.randn(3, WIDTH)
    file, text = opened(tmp_path, {"prompt": rows, "negative": rows[None] + 1})
    (name,) = set(file.prompts(4))
    assert name.startswith("prompt@") and len(file.prompts(4)) == 4
    encoded = text.encode(name)
    assert encoded.shape == (1, 8, WIDTH) and torch.equal(encoded[0, :3], rows) and not encoded[0, 3:].any()
    assert torch.equal(text.encode(file.negative)[0, :3], rows + 1)


def test_prompts_by_chunk_the_last_one_holds(tmp_path):
    file, text = opened(tmp_path, {f"prompt.{n}": torch.full((2, WIDTH), float(n)) for n in (0, 3, 10)}, padded=False)
    names = file.prompts(12)
    assert [name.split("@")[0] for name in names] == ["prompt.0"] * 3 + ["prompt.3"] * 7 + ["prompt.10"] * 2
    assert text.encode(names[4]).shape == (1, 2, WIDTH) and (text.encode(names[-1]) == 10).all()
    with pytest.raises(ValueError, match="prompt.10, the video has 5 chunks"):
        file.prompts(5)


def test_other_numbers_have_another_name(tmp_path):
    names = {opened(tmp_path, {"prompt": torch.full((1, WIDTH), value)})[0].prompts(1) for value in (0.0, 1.0)}
    assert len(names) == 2


def test_a_negative_is_asked_for_only_where_it_is_needed(tmp_path):
    with pytest.raises(ValueError, match="no negative, which guidance needs.*--guidance 1"):
        opened(tmp_path, {"prompt": torch.zeros(1, WIDTH)})[1].encode("")


ROWS = torch.zeros(2, WIDTH)
BAD = {
    "no prompt": ({"negative": ROWS}, "no prompt; expected prompt"),
    "a stray tensor": ({"prompt": ROWS, "cond": ROWS}, "tensor cond; expected prompt"),
    "chunk 0 missing": ({"prompt.2": ROWS}, "chunk 0 has no prompt"),
    "both forms": ({"prompt": ROWS, "prompt.2": ROWS}, "prompt together with prompt.N"),
    "another width": ({"prompt": torch.zeros(2, 5)}, r"prompt of shape \[2, 5\]; expected \[1 to 8, 6\]"),
    "too many rows": ({"prompt": torch.zeros(9, WIDTH)}, r"prompt of shape \[9, 6\]"),
    "a batch": ({"prompt": torch.zeros(2, 2, WIDTH)}, r"shape \[2, 2, 6\]"),
    "NaN": ({"prompt": ROWS / 0}, "NaN or infinity"),
    "whole numbers": ({"prompt": torch.zeros(2, WIDTH, dtype=torch.int64)}, "torch.int64; expected finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_none(case, tmp_path):
    tensors, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        opened(tmp_path, tensors)
