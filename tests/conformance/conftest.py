"""Refuses a folder of vectors that this suite cannot read before anything runs."""

import pytest

from tests.conformance import golden


def pytest_collectstart(collector: pytest.Collector) -> None:
    if isinstance(collector, pytest.Module):
        try:
            golden.folder()
        except ValueError as error:
            pytest.exit(f"conformance: {error}", returncode=2)
