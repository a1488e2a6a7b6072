import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("benchmark_tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_readme_and_docs_are_those_of_the_raw_results(tables, capsys):
    assert tables.main(check=True) == 0, capsys.readouterr().out


def test_a_changed_figure_makes_a_page_stale(tables):
    row = {"chunks": 8, "kv_budget_chunks": 4, "kv_peak_bytes": 1e6, "kv_peak_tokens": 432}
    results = {"memory": {"rows": [row]}}
    page = tables.rewritten("<!-- table memory -->\n<!-- end -->", results)
    assert "1.00" in page and page == tables.rewritten(page, results)
    row["kv_peak_bytes"] = 3e6
    assert "3.00" in tables.rewritten(page, results)
