"""The C++ step's matrix products against PyTorch's, for every width of registers that this processor has."""

import ctypes
import platform

import pytest
import torch

from mtp.decode.native import build
from mtp.decode.native.int8 import dequantised, quantised
from mtp.decode.native.layout import Layout

WIDTHS = {
    "all that there is": (),
    "eight values": ("-mno-avx512f",),
    "eight values, portable": ("-mno-avx512f", "-mno-avx2", "-mno-fma"),
}


@pytest.fixture(params=WIDTHS)
def library(request, monkeypatch):
    if WIDTHS[request.param] and platform.machine() != "x86_64":
        pytest.skip("these flags are of x86")
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, *WIDTHS[request.param]))
    build.library.cache_clear()
    yield build.library()
    build.library.cache_clear()


def product(library, layout, weight, x):
    described = layout.weight(weight)
    y = torch.full((len(x), len(weight)), float("nan"))
    library.mtp_linear(ctypes.byref(described), x.data_ptr(), y.data_ptr(), len(x), 2)
    return y


@pytest.mark.parametrize("int8", [False, True])
def test_products_of_any_shape(library, int8):
    generator = torch.Generator().manual_seed(3)
    layout = Layout(int8=int8)
    for inputs in (1, 7, 16, 24, 31, 144, 257):
        for outputs in (1, 5, 23, 50):
            weight = torch.randn(outputs, inputs, generator=generator)
            meant = dequantised(*quantised(weight)) if int8 else weight
            for rows in (1, 2, 3, 4, 5, 6, 7, 37):
                x = torch.randn(rows, inputs, generator=generator)
                found = product(library, layout, weight, x)
                expected = (x.double() @ meant.double().T).float()
                assert torch.allclose(found, expected, atol=1e-4, rtol=1e-5), (inputs, outputs, rows)


def test_a_row_has_the_same_bits_whatever_is_beside_it(library):
    generator = torch.Generator().manual_seed(4)
    weight, x = torch.randn(50, 75, generator=generator), torch.randn(41, 75, generator=generator)
    layout = Layout(int8=False)
    together = product(library, layout, weight, x)
    for rows in range(1, 8):
        for first in range(0, len(x) - rows, 5):
            alone = product(library, layout, weight, x[first : first + rows].contiguous())
            assert torch.equal(alone, together[first : first + rows])
