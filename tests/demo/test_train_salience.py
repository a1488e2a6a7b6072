"""Targets of the salience head against attention written out, and its training on a tiny network."""

import pytest
import torch
from safetensors.torch import save_file

from flowcache_core.demo.latent_pool import LatentPool
from flowcache_core.demo.salience_targets import FLOOR, LOOK_AHEAD, CausalTap, SalienceRecorder, sample, targets
from flowcache_core.demo.train_salience import measure, rank_correlation, train, train_salience
from flowcache_core.kv.salience import load_head
from tests.reference import SIDE, TINY, TOKENS, Masked, block_causal, normal, tiny_wan

FRAMES, CHUNK = 8, 2
PER_CHUNK = CHUNK * TOKENS


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


def clip(seed):
    return normal(1, TINY.channels, FRAMES, SIDE, SIDE, seed=seed), normal(1, 5, TINY.text_dim, seed=seed + 1)


def test_salience_is_the_largest_attention_of_later_and_of_earlier_chunks():
    q, k = normal(1, 2, 12, 8), normal(1, 2, 12, 8, seed=1)
    recorder = SalienceRecorder(4)
    recorder.attention(0, "self", q, k, k, lambda *given: given[0])
    p = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)[0]
    for j in range(12):
        later = [[p[h, i, j].item() for i in range(12) if i // 4 > j // 4] for h in range(2)]
        earlier = [[p[h, i, j].item() for i in range(12) if i // 4 < j // 4] for h in range(2)]
        for found, expected in ((recorder.later[0][j], later), (recorder.earlier[0][j], earlier)):
            assert found.item() == pytest.approx(sum(max(head, default=0.0) for head in expected) / 2, abs=1e-6)


def test_targets_are_log_saliences_by_group_standard_in_each_chunk():
    later, earlier = ([torch.rand(12, generator=torch.Generator().manual_seed(n + s)) for n in range(4)]
                      for s in (0, 9))
    found = targets(later, earlier, 2, 4)
    assert found.shape == (2, 4, 2)
    raw = torch.stack([sum((FLOOR + later[n]).log() + LOOK_AHEAD * (FLOOR + earlier[n]).log() for n in pair) / 2
                       for pair in ((0, 1), (2, 3))], dim=-1).view(3, 4, 2)[:2]
    expected = (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True)
    torch.testing.assert_close(found, expected)


def test_the_student_sees_what_a_chunk_by_chunk_run_sees(model):
    latent, text = clip(3)
    seen, tap = {}, CausalTap(0, PER_CHUNK, FRAMES * TOKENS)

    class Whole(Masked):
        def block(self, index, x, run):
            seen[index] = run(x)
            return seen[index]

    arguments = latent, torch.zeros(1, FRAMES), model.embed_text(text)
    model(*arguments, hooks=tap)
    model(*arguments, hooks=Whole(block_causal([PER_CHUNK] * (FRAMES // CHUNK))))
    torch.testing.assert_close(tap.hidden, seen[0], atol=1e-5, rtol=1e-5)


def test_rank_correlation():
    x = normal(3, 20, 2)
    assert rank_correlation(x, x.exp()) == pytest.approx(1) and rank_correlation(x, -x) == pytest.approx(-1)
    assert abs(rank_correlation(normal(50, 20, 2), normal(50, 20, 2, seed=1))) < 0.1


def test_a_head_learns_what_can_be_known(model):
    """Better than an untrained one on clips that it was not trained on."""
    made = [sample(model, *clip(10 * n), CHUNK, 0, 3, seed=n) for n in range(10)]
    (blind, before), (_, after) = (train(model, made[:8], made[8:], steps, lambda entry: None) for steps in (0, 150))
    assert before == pytest.approx(measure(blind, made[8:]))
    assert after > max(0.3, before + 0.1)


def test_the_whole_way_from_a_pool_to_a_file(model, tmp_path):
    latents, prompts = torch.cat([clip(n)[0] for n in range(4)]), ["a red circle moving up"] * 4
    import json

    save_file({"latents": latents.half()}, tmp_path / "shard-00000.safetensors", {"prompts": json.dumps(prompts)})
    pool = LatentPool(tmp_path)
    assert pool.refresh() == 4
    wide = tiny_wan(type(TINY)(**{**TINY.__dict__, "text_dim": pool.starts[0][1].shape[-1]}))
    out = tmp_path / "new" / "head.safetensors"
    correlation = train_salience(wide, tmp_path, CHUNK, 3, 1, 5, out, lambda entry: None)
    head = load_head(out)
    assert -1 <= correlation <= 1 and (head.layers, head.width, head.groups) == (TINY.layers, TINY.dim, 3)
    with pytest.raises(ValueError, match="4 clips.*9 are wanted"):
        train_salience(wide, tmp_path, CHUNK, 8, 1, 5, out, lambda entry: None)
