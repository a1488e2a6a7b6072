"""The comparison: what it keeps, what it makes again, and what it reads off its curves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    """A module of `benchmarks`, without the root on the path."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def curves():
    return load("curves")


def compare(folder, *words):
    command = [sys.executable, str(ROOT / "benchmarks" / "compare.py"), "--group", "steps", "--chunks", "2", "--videos",
               "1", "--steps", "4", "--runs", str(folder), "--no-save", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_comparison_goes_on_where_it_stopped(tmp_path):
    first = compare(tmp_path, "--methods", "fewer steps,every_nth")
    assert first.returncode == 0, first.stderr
    rows = json.loads(first.stdout.splitlines()[-1])["steps"]["rows"]
    assert rows[0]["method"] == "baseline" and rows[0]["speedup"] == 1 and rows[0]["flops_share"] == 1
    assert rows[0]["psnr_db"] is None and rows[0]["ssim"] == 1
    assert {row["method"] for row in rows[1:]} == {"fewer steps", "every_nth"}
    assert all(row["flops_tera"] > 0 and row["kv_peak_tokens"] > 0 for row in rows)
    (kept,) = tmp_path.glob("steps-*")
    marked = sorted(kept.glob("every_nth-*.json"))[0]
    marked.write_text(json.dumps({**json.loads(marked.read_text()), "seconds": 1234.0}))
    again = compare(tmp_path, "--methods", "every_nth")
    assert "1234.0" in again.stdout and f"{marked.stem}:" not in again.stdout


def test_an_unknown_method_is_refused_with_the_known_ones(tmp_path):
    done = compare(tmp_path, "--methods", "magic")
    assert done.returncode == 2 and "unknown method magic" in done.stderr and "flowcache" in done.stderr


@pytest.mark.parametrize("option", ["--videos", "--chunks", "--steps"])
def test_a_number_that_is_none_is_refused(tmp_path, option):
    done = compare(tmp_path, option, "0")
    assert done.returncode == 2 and f"{option} 0: expected at least 1" in done.stderr


def row(method, share, psnr, speedup=None):
    return {"method": method, "setting": "", "flops_share": share, "computed_share": share, "psnr_db": psnr,
            "speedup": speedup or 1 / share}


def test_equal_quality_is_read_between_the_points_that_bracket_it(curves):
    rows = [row("baseline", 1.0, None), row("flowcache", 0.5, 34.0), row("flowcache", 0.25, 30.0),
            row("ours", 0.4, 36.0), row("ours", 0.1, 28.0), row("far", 0.5, 20.0)]
    table = {entry["method"]: entry for entry in curves.equal_quality(rows, (30.0, 34.0))}
    assert set(table) == {"flowcache", "ours", "far"}
    assert table["flowcache"]["1 / FLOP share at 34 dB"] == 2 and table["flowcache"]["1 / FLOP share at 30 dB"] == 4
    assert table["ours"]["1 / FLOP share at 34 dB"] == pytest.approx(2.5 * 4 ** 0.25, abs=0.01)
    assert table["ours"]["of FlowCache's at 34 dB"] == pytest.approx(2.5 * 4 ** 0.25 / 2, abs=0.01)
    assert table["far"]["1 / FLOP share at 30 dB"] is None and table["far"]["of FlowCache's at 30 dB"] is None


def test_tables_and_pictures_follow_the_result(curves):
    tables = load("tables")
    rows = [{**row(name, share, psnr), "seconds": 1.0, "kv_peak_mb": 1.0, "ssim": 0.9, "score": 50.0}
            for name, share, psnr in (("baseline", 1.0, None), ("flowcache", 0.5, 34.0), ("flowcache", 0.25, 29.0),
                                      ("ours", 0.4, 36.0), ("ours", 0.1, 28.0))]
    result = {"compare": {"steps": {"rows": rows}}}
    page = tables.rewritten("<!-- table ablation -->\n<!-- end -->\n<!-- table compare-steps -->\n<!-- end -->\n"
                            "<!-- table compare-kv -->\n<!-- end -->", result)
    assert "a threshold, the last velocity again" in page and "our presets" in page and "Not yet measured" in page
    assert page == tables.rewritten(page, result)
