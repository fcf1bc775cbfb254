"""Tensors that an ONNX file stores: declared shape and type, values where they are at hand."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tilewright.dataflow.errors import InputError
from tilewright.workloads.read import shown

MAX_ELEMENTS = 2**42
#: Values of a larger tensor are never looked at.
MAX_VALUES = 2**24

_HALF_BYTE_TYPES = {
    getattr(TensorProto, name) for name in ("UINT4", "INT4", "FLOAT4E2M1") if hasattr(TensorProto, name)
}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
#: The field that holds the values of a type where they are not raw, and how many entries make an element.
_ENTRIES: dict[int, int] = {TensorProto.COMPLEX64: 2, TensorProto.COMPLEX128: 2}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A constant of the file; `proto` is None where its values are not at hand."""

    name: str
    elem_type: int
    shape: tuple[int, ...]
    proto: TensorProto | None
    folder: Path | None = None

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it holds real numbers, quantised ones not included."""
        return self.elem_type in _FLOATS

    def values(self) -> NDArray[Any] | None:
        """The values; None where the file does not hold them or they are too many to look at."""
        if self.proto is None or self.n_elements > MAX_VALUES:
            return None
        try:
            base_dir = str(self.folder) if self.folder else ""
            return np.asarray(numpy_helper.to_array(self.proto, base_dir))
        except (ValueError, TypeError, OSError, KeyError):
            return None  # a type that numpy lacks, or a data file that is not there: known by its shape alone


def stored_tensor(tensor: TensorProto, folder: Path, source: str) -> StoredTensor:
    """A tensor of the file, checked but not read.

    Raises InputError for a shape that is wrong or too large, an unknown type, data of another length than
    declared, or data outside `folder`.
    """
    label = f"{source}: tensor {shown(tensor.name)}"
    shape = tuple(tensor.dims)
    if wrong := [size for size in shape if size < 0]:
        raise InputError(f"{label} has a dimension of {wrong[0]}")
    if prod(shape) > MAX_ELEMENTS:
        raise InputError(f"{label} has {prod(shape):.3g} elements, at most {MAX_ELEMENTS} are supported")
    if tensor.data_type not in helper.get_all_tensor_dtypes() or not tensor.data_type:
        raise InputError(f"{label} has the unknown data type {tensor.data_type}")
    if tensor.data_location == TensorProto.EXTERNAL:
        inside = _external(tensor, folder, label)
        return StoredTensor(tensor.name, tensor.data_type, shape, tensor if inside else None, folder)
    return StoredTensor(tensor.name, tensor.data_type, shape, _with_data(tensor, shape, label))


def _with_data(tensor: TensorProto, shape: tuple[int, ...], label: str) -> TensorProto | None:
    """The tensor if it holds its values; None if it holds none, which weights may."""
    if tensor.HasField("segment"):
        raise InputError(f"{label} is stored in segments, which is not supported")
    expected = prod(shape)
    if tensor.data_type == TensorProto.STRING:
        found = len(tensor.string_data)
    elif tensor.HasField("raw_data"):
        found, expected = len(tensor.raw_data), _raw_bytes(tensor.data_type, expected)
    else:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        found = len(getattr(tensor, field))
        expected *= _ENTRIES.get(tensor.data_type, 1)
        if tensor.data_type in _HALF_BYTE_TYPES:
            expected = -(-expected // 2)
    if not found:
        return None
    if found != expected:
        unit = "bytes" if tensor.HasField("raw_data") else "values"
        raise InputError(f"{label} of shape {list(shape)} holds {found} {unit}, not {expected}")
    return tensor


def _raw_bytes(elem_type: int, n_elements: int) -> int:
    if elem_type in _HALF_BYTE_TYPES:
        return -(-n_elements // 2)
    return n_elements * helper.tensor_dtype_to_np_dtype(elem_type).itemsize


def _external(tensor: TensorProto, folder: Path, label: str) -> bool:
    """Whether the data file is there and holds the tensor. Raises InputError for a file outside `folder`."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = Path(location)
    if not location or "\0" in location or "\\" in location or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{label}: its data file {shown(location)} is no file inside the model's folder")
    try:
        offset, length = (int(entries.get(key) or 0) for key in ("offset", "length"))
    except ValueError:
        raise InputError(f"{label}: offset and length of its data must be whole numbers") from None
    n_bytes = (
        _raw_bytes(tensor.data_type, prod(tensor.dims)) if tensor.data_type != TensorProto.STRING else -1
    )
    if offset < 0 or (length and length != n_bytes):
        raise InputError(f"{label}: its data take {n_bytes} bytes, got offset {offset} and length {length}")
    try:
        resolved = (folder / path).resolve()
        if not resolved.is_relative_to(folder.resolve()):
            raise InputError(f"{label}: its data file {shown(location)} is no file inside the model's folder")
        if (folder / path).is_symlink() or not resolved.is_file():
            return False
        if resolved.stat().st_size < offset + n_bytes:
            raise InputError(f"{label}: {location} is too short for its {n_bytes} bytes at {offset}")
    except OSError:
        return False
    return True
