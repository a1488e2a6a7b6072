import pytest
import torch

from tests.checkpoints.samples import MAGI_TINY, magi_tensors, wan_tensors


@pytest.fixture(scope="session")
def wan():
    """Tensors of a small Wan2.1 network, by their real names."""
    return wan_tensors()


@pytest.fixture(scope="session")
def magi():
    torch.manual_seed(1)
    return magi_tensors(MAGI_TINY)
