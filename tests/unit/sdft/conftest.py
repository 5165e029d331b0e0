"""Parts that several tests of the algorithm share."""

import pytest

from worker.sdft import products


@pytest.fixture
def torchs_products(monkeypatch):
    """Products as torch makes them: exact bounds are of its rounding. test_products.py compares oneDNN's with fp64."""
    monkeypatch.setattr(products, "_ONEDNN", False)
