"""Tiny bases on disk, made once."""

from pathlib import Path

import pytest
import torch

from tests.tiny_models import FAMILIES, save_tiny


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The models are too small for more."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=FAMILIES)
def any_base(request, tmp_path_factory) -> Path:
    """A base of each family."""
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    """One base, where the family does not matter."""
    return save_tiny("llama", tmp_path_factory.mktemp("llama"))
