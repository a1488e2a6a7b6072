"""Nothing is lost: killed runs go on to the same bits, at the cost of what was not yet saved and no more."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowcache_core.backbones.wan import WanTransformer
from flowcache_core.cli import main
from flowcache_core.run_folder import RunFolder, read_manifest
from flowcache_core.trace import load_trace
from tests.cli.conftest import profile_file

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--chunk-frames", "1"]   # little to decode
RUNS = {
    "pyramid": [*SHORT, "--chunks", "3", "--steps", "4", "--policy", "flowcache", "--threshold", "0.2", "--set",
                "distance_signal=patch_embedding", "--set", "warmup_steps=1"],
    "folded": [*SHORT, "--plan", "sequential", "--chunks", "5", "--steps", "3", "--kv-window", "2.5", "--kv-scorer",
               "key_norm", "--guidance", "1", "--policy", "every_nth", "--predictor", "residual",
               "--prompt", "0: a red circle moving right; 3: a blue square moving up"],
    "windows": [*SHORT, "--chunks", "6", "--steps", "3", "--base", "13", "--overlap", "5", "--policy", "flowcache",
                "--threshold", "0.5", "--set", "warmup_steps=1", "--kv-window", "4"],   # 0-3, 2-5
}
KILLS = {"pyramid": [("call", 3), ("call", 14), ("half a state", 2), ("before the state", 1)],
         "folded": [("call", 9), ("no name yet", 4)],
         "windows": [("behind a state", 2), ("half a state", 4), ("behind a state", 4), ("no name yet", 5)]}
POINTS = [(name, at, count) for name, kills in KILLS.items() for at, count in kills]


@dataclass
class Whole:
    """An uninterrupted run: its folder, calls of the network in all, and by the number of finished chunks."""

    folder: Path
    calls: int
    by_state: dict[int, int]


def count(patch):
    """Calls of the network from now on, and by the number of finished chunks at every state."""
    calls, by_state, forward, save = [0], {}, WanTransformer.forward, RunFolder.save_state

    def counting(*args, **words):
        calls[0] += 1
        return forward(*args, **words)

    def saving(self, state, last=False):
        by_state.setdefault(len(self.saved), calls[0])
        save(self, state, last)

    patch.setattr(WanTransformer, "forward", counting)
    patch.setattr(RunFolder, "save_state", saving)
    return calls, by_state


@pytest.fixture
def counted(monkeypatch):
    return count(monkeypatch)


def words_of(name, model, out):
    return ["generate", "--model", str(model), *RUNS[name], "--out", str(out)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the killed runs have it: another number of threads adds up in another order, and gives other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def wholes(one_thread, tiny_model, tmp_path_factory):
    """Every run, uninterrupted."""
    made, folder = {}, tmp_path_factory.mktemp("whole")
    for name in RUNS:
        with pytest.MonkeyPatch.context() as patch:
            calls, by_state = count(patch)
            assert main(words_of(name, tiny_model, folder / name)) == 0
            made[name] = Whole(folder / name, calls[0], by_state)
    return made


@pytest.fixture(scope="module")
def killed(tiny_model, tmp_path_factory):
    """Folders of runs that were killed, by point."""
    if os.name == "nt":
        pytest.skip("signals differ on Windows")
    folder = tmp_path_factory.mktemp("killed")
    folders = {point: folder / str(n) for n, point in enumerate(POINTS)}
    cases = [{"words": words_of(name, tiny_model, folders[name, at, count]), "at": at, "count": count}
             for name, at, count in POINTS]
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("killed.py")), json.dumps(cases)], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300)
    assert done.stderr.count("killed") == len(POINTS), done.stderr
    return folders


def latents(folder):
    return [load_file(path)["latent"] for path in sorted(folder.glob("chunk-*.safetensors"))]


def same_chunks(a, b):
    return len(latents(a)) == len(latents(b)) and all(map(torch.equal, latents(a), latents(b)))


@pytest.mark.parametrize("point", POINTS, ids=lambda point: "-".join(map(str, point)))
def test_a_killed_run_goes_on_bit_for_bit(point, killed, wholes, counted, capsys):
    folder, whole, (calls, _) = killed[point], wholes[point[0]], counted
    states = sorted(folder.glob("state-*.safetensors"))
    saved = int(states[-1].stem[-4:]) if states else 0
    assert main(["generate", "--resume", str(folder)]) == 0
    assert calls[0] == whole.calls - (whole.by_state[saved] if saved else 0)
    assert same_chunks(folder, whole.folder)
    assert (folder / "video.mp4").read_bytes() == (whole.folder / "video.mp4").read_bytes()
    assert not list(folder.glob("*.partial*"))
    found, expected = (load_trace(f / "trace.json") for f in (folder, whole.folder))
    told = [[[(lane.decision, lane.reason) for lane in p.lanes] for p in t.passes] for t in (found, expected)]
    assert told[0] == told[1]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state_bytes"] > 0


@pytest.fixture
def stopped(tiny_model, tmp_path, counted):
    """The folder of a run that was stopped in its last chunk: two states, no video."""
    calls, _ = counted

    def stop_at(name, call):
        inner = WanTransformer.forward

        def interrupted(*args, **words):
            if calls[0] == call - 1:
                raise KeyboardInterrupt
            return inner(*args, **words)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WanTransformer, "forward", interrupted)
            assert main(words_of(name, tiny_model, tmp_path / "run")) == 130
        calls[0] = 0
        return tmp_path / "run"
    return stop_at


def test_ctrl_c_names_the_folder_and_the_way_on(stopped, wholes, counted, capsys):
    whole = wholes["folded"]
    folder = stopped("folded", whole.by_state[3] + 2)
    assert f"3 finished chunks kept in {folder}; go on with --resume {folder}" in capsys.readouterr().err
    assert len(list(folder.glob("state-*"))) == 2
    assert main(["generate", "--resume", str(folder)]) == 0
    assert counted[0][0] == whole.calls - whole.by_state[3] and same_chunks(folder, whole.folder)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_state_gives_way_to_the_one_before(damage, stopped, wholes, counted, capsys):
    whole = wholes["folded"]
    folder = stopped("folded", whole.by_state[3] + 2)
    path = folder / "state-0003.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data if damage == "changed" else data[:-100])
    assert main(["generate", "--resume", str(folder)]) == 0
    assert "going on from state-0002.safetensors" in capsys.readouterr().out
    assert counted[0][0] == whole.calls - whole.by_state[2] and same_chunks(folder, whole.folder)


def test_without_a_readable_state_it_says_what_to_do_and_rebuilds(stopped, wholes, counted, capsys):
    whole = wholes["folded"]
    folder = stopped("folded", whole.by_state[3] + 2)
    for path in folder.glob("state-*"):
        path.write_bytes(b"nothing")
    assert main(["generate", "--resume", str(folder)]) == 2
    assert f"--resume {folder} --state none" in capsys.readouterr().err
    assert main(["generate", "--resume", str(folder), "--state", "none"]) == 0
    said = capsys.readouterr().out
    assert "keys of 3 finished chunks made again" in said and "not the one" in said
    assert all(map(torch.equal, latents(folder)[:3], latents(whole.folder)[:3]))
    assert counted[0][0] <= whole.calls - whole.by_state[3] + 3
    rest = zip(latents(folder)[3:], latents(whole.folder)[3:], strict=True)
    assert all((a - b).norm() / b.norm() < 0.5 for a, b in rest)


CHANGES = {"another seed": (["--seed", "5"], ["settings.seed is 5, it was 0"]),
           "another threshold": (["--set", "interval=3"], ["interval is 3"]),
           "another prompt": (["--prompt", "a red circle moving left"], ["prompt of chunk 0", "moving left"]),
           "another plan": (["--chunks", "6"], ["plan.chunks"])}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_refused_by_name(change, wholes, counted, capsys):
    words, named = CHANGES[change]
    assert main(["generate", "--resume", str(wholes["folded"].folder), *words]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ["with other settings", *named]), message
    assert counted[0][0] == 0


def test_another_checkpoint_is_refused(wholes, tiny_model, tmp_path, capsys):
    from safetensors.torch import save_file

    tensors = load_file(tiny_model)
    tensors["head.head.bias"][0] += 1
    save_file(tensors, tmp_path / "other.safetensors")
    words = ["--resume", str(wholes["folded"].folder), "--model", str(tmp_path / "other.safetensors")]
    assert main(["generate", *words]) == 2
    assert "model is " in capsys.readouterr().err


def test_an_unfinished_run_is_not_overwritten(stopped, wholes, tiny_model, capsys):
    folder = stopped("folded", wholes["folded"].by_state[1] + 1)
    assert main(words_of("folded", tiny_model, folder)) == 2
    message = capsys.readouterr().err
    assert "unfinished run (1 of 5 chunks)" in message and f"--resume {folder}" in message
    assert len(latents(folder)) == 1


@pytest.mark.parametrize(("words", "named"), [
    (["--resume", "nowhere"], ["nowhere holds no run", "--out"]), (["--extend", "nowhere"], ["nowhere holds no run"]),
    (["--resume", "a", "--extend", "b"], ["give one of the two"])])
def test_folders_that_hold_nothing(words, named, capsys):
    assert main(["generate", *words]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in named), message


def test_an_extension_equals_the_longer_run(tiny_model, tmp_path, wholes, counted, capsys):
    """A causal plan without a budget: behind its own keys the video goes on as if it had been longer at once."""
    words = ["--model", str(tiny_model), *SHORT, "--plan", "sequential", "--steps", "3", "--guidance", "1"]
    prompts = "0: a red circle moving right; 2: a blue square moving up"
    assert main(["generate", *words, "--chunks", "4", "--prompt", prompts, "--out", str(tmp_path / "long")]) == 0
    long_calls = counted[0][0]
    short = tmp_path / "short"
    begin = ["--prompt", "a red circle moving right"]
    assert main(["generate", *words, "--chunks", "2", *begin, "--out", str(short)]) == 0
    capsys.readouterr()
    assert main(["generate", "--extend", str(short), "--chunks", "2", "--prompt", "a blue square moving up"]) == 0
    assert "keys of" not in capsys.readouterr().out and counted[0][0] == 2 * long_calls
    assert same_chunks(short, tmp_path / "long")
    assert read_manifest(short)["of"] == 4 and read_manifest(short)["ended"]
    assert (short / "video.mp4").read_bytes() == (tmp_path / "long" / "video.mp4").read_bytes()


@pytest.mark.parametrize(("short", "added"), [(3, 3), (5, 2)])
def test_an_extension_in_windows_equals_the_longer_run(short, added, tiny_model, tmp_path, capsys):
    """From one window into two, and in the middle of the second: 0-3, 2-5, 4-6."""
    words = ["--model", str(tiny_model), *SHORT, "--profile", profile_file(tmp_path, base_frames=4,
             overlap_pixel_frames=5), "--plan", "sequential", "--steps", "2", "--guidance", "1"]
    long, out, more = tmp_path / "long", tmp_path / "short", ["--prompt", f"{short}: a blue square moving up"]
    prompt = f"0: a red circle moving right; {more[1]}"
    assert main(["generate", *words, "--chunks", str(short + added), "--prompt", prompt, "--out", str(long)]) == 0
    begin = ["--prompt", "a red circle moving right"]
    assert main(["generate", *words, "--chunks", str(short), *begin, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["generate", "--extend", str(out), "--chunks", str(added), *more]) == 0
    assert "made again" not in capsys.readouterr().out
    assert same_chunks(out, long) and (out / "video.mp4").read_bytes() == (long / "video.mp4").read_bytes()
    assert read_manifest(out)["of"] == short + added and read_manifest(out)["ended"]
    assert main(["generate", "--extend", str(out), "--base", "17"]) == 2
    assert "windows is" in capsys.readouterr().err
    assert main(["generate", "--extend", str(out), "--latent-frames", "9"]) == 2
    assert "say how many with --chunks" in capsys.readouterr().err


def test_an_extension_takes_the_folder_over_with_its_first_state(tiny_model, tmp_path, capsys, monkeypatch):
    """Stopped before it, the finished video is what is there."""
    words = ["--model", str(tiny_model), *SHORT, "--base", "13", "--overlap", "5", "--steps", "2", "--guidance", "1"]
    assert main(["generate", *words, "--chunks", "5", "--out", str(tmp_path)]) == 0

    def stop(self, state, last=False):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", stop)
        assert main(["generate", "--extend", str(tmp_path), "--chunks", "2"]) == 130
    assert "no chunk was added" in capsys.readouterr().err and read_manifest(tmp_path)["of"] == 5
    assert main(["generate", "--extend", str(tmp_path), "--chunks", "2"]) == 0
    assert len(latents(tmp_path)) == 7 and read_manifest(tmp_path)["of"] == 7


def test_windows_without_states_are_rebuilt_and_say_so(stopped, wholes, capsys):
    whole = wholes["windows"]
    for count in (4, 5):
        folder = stopped("windows", whole.by_state[count] + 1)
        for path in folder.glob("state-*"):
            path.unlink()
        assert main(["generate", "--resume", str(folder), "--state", "none"]) == 0
        said = capsys.readouterr().out
        assert ("made again" in said) == (count == 5) and ("went on with window 2 of 2" in said) == (count == 4)
        assert all(map(torch.equal, latents(folder)[:count], latents(whole.folder)))
        assert same_chunks(folder, whole.folder) or count == 5
        for path in folder.iterdir():
            path.unlink()


def test_an_extension_from_latents_alone_says_so(tiny_model, tmp_path, capsys):
    words = ["--model", str(tiny_model), *SHORT, "--steps", "2", "--chunks", "2", "--state", "none"]
    assert main(["generate", *words, "--out", str(tmp_path)]) == 0
    assert not list(tmp_path.glob("state-*"))
    before = latents(tmp_path)
    assert main(["generate", "--extend", str(tmp_path), "--chunks", "1"]) == 0
    assert "keys of 2 finished chunks made again" in capsys.readouterr().out
    assert len(latents(tmp_path)) == 3 and all(map(torch.equal, before, latents(tmp_path)))
    assert main(["generate", "--extend", str(tmp_path), "--seed", "3"]) == 2
    assert "settings.seed is 3" in capsys.readouterr().err
