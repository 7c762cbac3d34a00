"""The tensor wrapper: exact values, views, identity, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import LayoutError
from actstore.ingestion.tensor import Tensor

FLOATS = ("float16", "bfloat16", "float32", "float64")
FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
INTEGERS = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "bool")


def test_module_does_not_import_torch() -> None:
    code = "import sys, actstore.ingestion.tensor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", FLOATS + FLOAT8 + INTEGERS)
def test_shape_dtype_and_bytes_of_every_type(name: str) -> None:
    source = torch.zeros(2, 3).to(getattr(torch, name))
    tensor = Tensor(source)
    assert (tensor.shape, tensor.ndim, len(tensor), tensor.dtype) == ((2, 3), 2, 2, name)
    assert tensor.nbytes == 6 * source.element_size()
    assert repr(tensor) == f"Tensor({name} [2, 3])"


def test_every_bfloat16_becomes_the_float32_of_the_same_bits() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    source = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    expected = bits.astype(np.uint32) << 16
    values = Tensor(source).numpy()
    assert values.dtype == np.float32
    numbers = ~np.isnan(expected.view(np.float32))
    np.testing.assert_array_equal(values.view(np.uint32)[numbers], expected[numbers])
    assert np.isnan(values[~numbers]).all()


@pytest.mark.parametrize("name", FLOAT8)
def test_every_float8_comes_as_its_float32(name: str) -> None:
    source = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name))
    values = Tensor(source).numpy()
    assert values.dtype == np.float32
    # Going back gives the same byte: nothing was lost.
    numbers = ~np.isnan(values)
    back = torch.from_numpy(values).to(source.dtype).view(torch.uint8).numpy()
    np.testing.assert_array_equal(back[numbers], np.arange(256, dtype=np.uint8)[numbers])
    assert numbers.sum() >= 248


@pytest.mark.parametrize("name", ["float16", "float32", "float64", *INTEGERS])
def test_other_types_come_as_they_are(name: str) -> None:
    source = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, name))
    values = Tensor(source).numpy()
    assert values.dtype.name == name
    np.testing.assert_array_equal(values, np.array([[0, 1, 1], [1, 0, 1]]).astype(name))


def test_views_over_larger_storages_and_strides() -> None:
    source = torch.randn(1, 50, 16)
    last = Tensor(source[:, -1:, :])
    assert last.nbytes == 64
    np.testing.assert_array_equal(last.numpy(), source.numpy()[:, -1:, :])
    np.testing.assert_array_equal(Tensor(source[0].T).numpy(), source.numpy()[0].T)
    np.testing.assert_array_equal(Tensor(source[0, ::7]).numpy(), source.numpy()[0, ::7])


def test_negative_bit_and_gradient_are_resolved() -> None:
    negative = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert negative.is_neg()
    np.testing.assert_array_equal(Tensor(negative).numpy(), [-2, 4])
    learned = torch.nn.Parameter(torch.ones(2))
    np.testing.assert_array_equal(Tensor(learned).numpy(), [1, 1])


def test_big_endian_and_fortran_order() -> None:
    source = np.arange(6, dtype=">f4").reshape(2, 3, order="F")
    tensor = Tensor(source)
    assert tensor.dtype == "float32"
    assert tensor.numpy().dtype.isnative
    np.testing.assert_array_equal(tensor.numpy(), [[0, 2, 4], [1, 3, 5]])


def test_text_arrays_are_str() -> None:
    tensor = Tensor(np.array(["a", "bc"]))
    assert tensor.dtype == "str"
    assert tensor.tolist() == ["a", "bc"]


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_indexing_gives_views(make: Any) -> None:
    source = make([[1.0, 2.0], [3.0, 4.0]])
    tensor = Tensor(source)
    assert tensor[1].tolist() == [3, 4]
    assert tensor[1, 0].item() == 3
    assert tensor[1][0].shape == ()
    assert tensor[:, 1].tolist() == [2, 4]
    assert tensor[None].shape == (1, 2, 2)
    view = tensor[1]
    source[1, 0] = 7.0
    assert view.tolist() == [7, 4]
    with pytest.raises(IndexError):
        tensor[2]
    assert [row.tolist() for row in tensor] == [[1, 2], [7, 4]]


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_reshape_and_squeeze(make: Any) -> None:
    tensor = Tensor(make((1, 3, 1, 4)))
    assert tensor.squeeze(0).shape == (3, 1, 4)
    assert tensor.squeeze((0, 2)).shape == (3, 4)
    assert tensor.squeeze(-2).shape == (1, 3, 4)
    assert tensor.reshape(3, 4).shape == (3, 4)
    assert tensor.reshape(-1).shape == (12,)
    with pytest.raises(LayoutError, match=r"axis 1 .* \[1, 3, 1, 4\]"):
        tensor.squeeze(1)
    with pytest.raises(LayoutError, match="axis 4"):
        tensor.squeeze(4)
    with pytest.raises(LayoutError, match=r"\[1, 3, 1, 4\] cannot take the shape \[5, 2\]"):
        tensor.reshape(5, 2)


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_identity_is_the_memory_in_view(make: Any) -> None:
    source = make((2, 3, 4))
    tensor = Tensor(source)
    assert tensor.identity() == Tensor(source).identity()
    assert tensor[0].identity() == Tensor(source)[0].identity()
    assert tensor[0].identity() != tensor[1].identity()
    assert tensor.identity() != Tensor(make((2, 3, 4))).identity()
    assert tensor.identity() != tensor.reshape(6, 4).identity()
    assert len({tensor.identity(), Tensor(source).identity()}) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64])
def test_same_bits_across_memory_and_strides(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.0, 1.5, -2.0], [4.0, 0.25, 7.0]]).to(dtype)
    turned = values.T.contiguous().T
    assert Tensor(values).same_bits(Tensor(values.clone()))
    assert Tensor(values).same_bits(Tensor(turned))
    assert not Tensor(values).same_bits(Tensor(values[:1]))
    assert not Tensor(values).same_bits(Tensor(values.to(torch.float64)))
    changed = values.clone()
    changed[1, 2] = 8
    assert not Tensor(values).same_bits(Tensor(changed))


@pytest.mark.parametrize("make", [Tensor, lambda tensor: Tensor(tensor.numpy())])
def test_same_bits_tells_zeros_apart_and_knows_nan(make: Any) -> None:
    zeros = torch.zeros(3)
    assert not make(zeros).same_bits(make(-zeros))
    missing = torch.full((3,), torch.nan)
    assert make(missing).same_bits(make(missing.clone()))
    assert make(zeros).same_bits(Tensor(np.zeros(3, np.float32)))


@pytest.mark.parametrize("make", [Tensor, lambda tensor: Tensor(tensor.numpy())])
def test_is_zero_takes_both_signs(make: Any) -> None:
    assert make(torch.tensor([0.0, -0.0])).is_zero()
    assert not make(torch.tensor([0.0, 6e-8]).half()).is_zero()


def test_item_wants_exactly_one_value() -> None:
    assert Tensor(torch.tensor([[5]])).item() == 5
    assert Tensor(np.array(2.5)).item() == 2.5
    with pytest.raises(LayoutError, match=r"single value .* \[2\]"):
        Tensor(torch.zeros(2)).item()
    with pytest.raises(LayoutError, match="no length"):
        len(Tensor(torch.tensor(1)))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (torch.zeros(2, 2).to_sparse(), r"sparse tensor \(sparse_coo\)"),
        (torch.zeros(2, dtype=torch.complex64), r"complex tensor \(complex64\)"),
        (torch.zeros(2, device="meta"), "'meta'"),
        (torch.empty(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4"),
        (np.zeros(2, np.complex64), r"complex array \(complex64\)"),
        (np.array([None]), "Python objects"),
        (np.zeros(2, [("a", "f4"), ("b", "i4")]), "fields a, b"),
        (np.zeros(2, "V2"), "perhaps bfloat16"),
        (np.zeros(2, "V16"), "V16"),
        ([1.0], "got list"),
    ],
)
def test_refuses_what_is_no_grid_of_real_numbers(source: Any, named: str) -> None:
    with pytest.raises(LayoutError, match=named):
        Tensor(source)


def test_refuses_quantized_tensors() -> None:
    with pytest.warns(UserWarning, match="quantized"):  # torch says that it will drop them
        quantized = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)
    with pytest.raises(LayoutError, match="quantized"):
        Tensor(quantized)
