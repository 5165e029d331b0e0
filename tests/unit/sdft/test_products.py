"""Products with a frozen weight are the same whichever kernel makes them."""

import pytest
import torch

from worker.sdft import products


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("shape", [(1, 8), (13, 8), (60, 8), (2, 5, 8), (0, 8), (2, 0, 8)])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_is_its_definition(*, monkeypatch, onednn, shape, transposed, has_bias):
    """Fault caught: a weight that is read in the order it lies, a bias left out, no rows."""
    monkeypatch.setattr(products, "_ONEDNN", onednn and products._ONEDNN)
    x, weight_OI = torch.randn(shape), torch.randn(8, 50).T if transposed else torch.randn(50, 8)
    bias_O = torch.randn(50) if has_bias else None
    exact = x.double() @ weight_OI.double().T + (bias_O.double() if has_bias else 0)
    torch.testing.assert_close(products.linear(x, weight_OI, bias_O), exact.float(), rtol=1e-5, atol=1e-5)


def test_other_types_are_mapped_as_well():
    x, weight_OI = torch.randn(3, 8, dtype=torch.bfloat16), torch.randn(50, 8, dtype=torch.bfloat16)
    assert torch.equal(products.linear(x, weight_OI), torch.nn.functional.linear(x, weight_OI))
