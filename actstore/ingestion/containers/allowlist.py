"""An unpickler that rebuilds tensors, arrays and plain values, and calls nothing else.

Every name that a pickle may mention stands in one of the tables below and leads to a function
of this module, never to the original: what a file calls ``torch._utils._rebuild_tensor_v2`` is
``Rebuilder.tensor``. Values that it builds are wrapped in Held, whose ``__setstate__`` refuses,
so that a BUILD instruction cannot reach into them either.
"""

from __future__ import annotations

import datetime
import io
import math
import pickle
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from actstore.errors import LayoutError, UnreadableFileError, UnsafeFileError

# torch's storage classes by name, with the bytes and the type of one element.
STORAGES: Final = {
    "DoubleStorage": (8, "float64"),
    "FloatStorage": (4, "float32"),
    "HalfStorage": (2, "float16"),
    "BFloat16Storage": (2, "bfloat16"),
    "LongStorage": (8, "int64"),
    "IntStorage": (4, "int32"),
    "ShortStorage": (2, "int16"),
    "CharStorage": (1, "int8"),
    "ByteStorage": (1, "uint8"),
    "BoolStorage": (1, "bool"),
    "UntypedStorage": (1, "uint8"),
    "ComplexFloatStorage": (8, "complex64"),
    "ComplexDoubleStorage": (16, "complex128"),
}

DTYPES: Final = {
    **{dtype: size for size, dtype in STORAGES.values()},
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}

# Rebuilt by names of their own; a row cannot be made of any of them.
_NOT_DENSE: Final = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no data,",
    "_rebuild_wrapper_subclass": "a tensor subclass",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
}


class Held:
    """A value that the pickle built and cannot touch again."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: object) -> None:
        raise UnsafeFileError("the pickle sets the state of a finished value, as no tensor needs")


class Name(Held):
    """A name of the tables that is no function: a dtype or a storage class."""

    __slots__ = ()


class Call(Held):
    """A function of the tables. An object of its own, so that BUILD cannot alter the function."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        return self.value(*arguments)


class Mapping(dict[Any, Any]):
    """What OrderedDict, defaultdict and Counter become; attributes set on it are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        # torch's state dicts carry their version this way; nothing here reads it.
        return


class TensorSpec(NamedTuple):
    """A tensor that was described but not built."""

    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Storage(NamedTuple):
    """The memory behind tensors: its bytes, its element type and, where it was loaded, itself."""

    nbytes: int
    dtype: str
    loaded: Any = None


def check_view(
    storage: Storage, offset: Any, size: Any, stride: Any, dtype: str | None = None
) -> TensorSpec:
    """The view, where it lies inside its storage and is no larger than it.

    Raises UnsafeFileError where it would read outside, or unfold few bytes into many.
    """
    numbers = (offset, *_tuple(size), *_tuple(stride))
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise UnsafeFileError("a tensor has an offset, shape or stride that is no natural number")
    if len(_tuple(size)) != len(_tuple(stride)) or len(_tuple(size)) > 64:
        raise UnsafeFileError(
            f"a tensor has {len(_tuple(size))} axes and {len(_tuple(stride))} strides"
        )
    spec = TensorSpec(dtype or storage.dtype, offset, _tuple(size), _tuple(stride))
    itemsize = DTYPES[spec.dtype]
    needed = math.prod(spec.shape) * itemsize
    if needed > storage.nbytes:
        raise UnsafeFileError(
            f"a tensor of shape {list(spec.shape)} {spec.dtype} needs {needed:,} bytes, "
            f"the file holds {storage.nbytes:,} for it"
        )
    reach = sum((n - 1) * step for n, step in zip(spec.shape, spec.stride, strict=True))
    if needed and (offset + reach + 1) * itemsize > storage.nbytes:
        raise UnsafeFileError(
            f"a tensor of shape {list(spec.shape)}, stride {list(spec.stride)} and offset {offset} "
            f"reaches outside its {storage.nbytes:,} bytes"
        )
    return spec


def _tuple(value: Any) -> tuple[Any, ...]:
    value = value.value if isinstance(value, Held) else value
    if not isinstance(value, tuple | list):
        raise UnsafeFileError(f"a tensor's shape is a {type(value).__name__}, not a tuple")
    return tuple(value)


def dtype_name(value: Any) -> str:
    """The name behind a dtype of the pickle."""
    if not isinstance(value, Name) or value.value not in DTYPES:
        raise UnsafeFileError("a tensor's type is none that torch has")
    return str(value.value)


class Rebuilder:
    """The functions that a pickle may call. Subclasses say how storages load and tensors build.

    Copies that a call makes count against a budget, because a pickle can ask for the same
    copy a million times in a million bytes.
    """

    def __init__(self, size: int) -> None:
        self.budget = 4 * size + (1 << 20)

    def spend(self, count: int) -> None:
        """Take ``count`` bytes or elements from the budget."""
        self.budget -= count
        if self.budget < 0:
            raise UnsafeFileError("the pickle copies far more than it holds, as bombs do")

    def build(self, storage: Storage, spec: TensorSpec, negative: bool) -> Any:
        """The tensor itself; here only its description."""
        return spec

    def load_storage(self, data: bytes) -> Storage:
        """The storage inside the bytes of a legacy torch file."""
        raise UnsafeFileError("a torch file holds another one inside, as torch.save never writes")

    def tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        metadata: Any = None,
    ) -> Held:
        return self._tensor(storage, offset, size, stride, hooks, None, metadata)

    def tensor_of_type(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> Held:
        return self._tensor(storage, offset, size, stride, hooks, dtype_name(dtype), metadata)

    def _tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        hooks: Any,
        dtype: str | None,
        metadata: Any,
    ) -> Held:
        if not isinstance(storage, Held) or not isinstance(storage.value, Storage):
            raise UnsafeFileError("a tensor is built over something that is no storage")
        if hooks:
            raise UnsafeFileError("a tensor carries hooks, which torch.save never writes")
        if metadata and (not isinstance(metadata, dict) or set(metadata) - {"neg", "conj"}):
            raise UnsafeFileError("a tensor carries settings that torch.save never writes")
        spec = check_view(storage.value, offset, size, stride, dtype)
        self.spend(len(spec.shape) + 1)
        negative = bool(metadata and metadata.get("neg"))
        return Held(self.build(storage.value, spec, negative))

    def parameter(self, data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Held:
        if not isinstance(data, Held) or hooks:
            raise UnsafeFileError("a parameter is built over something that is no plain tensor")
        return data

    def storage(self, data: Any) -> Held:
        if not isinstance(data, bytes):
            raise UnsafeFileError("a tensor's storage is not given as bytes")
        self.spend(len(data))
        return Held(self.load_storage(data))

    def mapping(self, items: Any = ()) -> Mapping:
        # defaultdict's factory arrives here as well; it is of no use once the values are there.
        if isinstance(items, Held):
            items = ()
        self.spend(len(items))
        return Mapping(items)

    def size(self, items: Any = ()) -> tuple[Any, ...]:
        self.spend(len(items))
        result = tuple(items)
        if not all(type(item) is int for item in result):
            raise UnsafeFileError("a torch.Size holds something other than integers")
        return result

    def collection(self, items: Any = ()) -> list[Any]:
        self.spend(len(items))
        return list(items)

    def device(self, kind: Any, index: Any = None) -> str:
        return f"{kind}" if index is None else f"{kind}:{index}"

    def encode(self, text: Any, encoding: Any) -> bytes:
        # How protocol 2 writes bytes. The other codecs include compressors.
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UnsafeFileError("the pickle encodes text other than as raw bytes")
        self.spend(len(text))
        return text.encode("latin-1")

    def bytearray(self, data: Any = b"", encoding: Any = "latin-1") -> bytes:
        # bytearray(n) would reserve n bytes, so only copies are made.
        if isinstance(data, str):
            return self.encode(data, encoding)
        if not isinstance(data, bytes):
            raise UnsafeFileError("the pickle makes a bytearray out of a number")
        self.spend(len(data))
        return data

    def no_bytes(self) -> bytes:
        # How protocols 0 to 2 write b"".
        return b""

    def custom(self, *arguments: Any) -> None:
        raise UnsafeFileError(refusal("copyreg._reconstructor"))

    def date(self, *arguments: Any) -> str:
        return datetime.date(*_date_arguments(arguments)).isoformat()

    def datetime(self, *arguments: Any) -> str:
        return datetime.datetime(*_date_arguments(arguments)).isoformat()


def _date_arguments(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    head = arguments[:1]
    if head and isinstance(head[0], str):  # protocol 2 and the loader's encoding
        head = (head[0].encode("latin-1"),)
    if not head or not isinstance(head[0], bytes):
        raise UnsafeFileError("the pickle builds a date in a way that Python does not write")
    return head  # a time zone is an object of its own and is dropped


class AllowListUnpickler(pickle.Unpickler):
    """Unpickles with the functions of a Rebuilder, those of ``extra``, and nothing else.

    ``persistent`` finds the storages that a torch file keeps outside the pickle. load() raises
    UnsafeFileError at the first name that is not allowed.
    """

    def __init__(
        self,
        data: io.BytesIO,
        rebuilder: Rebuilder,
        *,
        persistent: Callable[[Any], Held] | None = None,
        extra: dict[tuple[str, str], Held] | None = None,
        encoding: str = "latin-1",
    ) -> None:
        super().__init__(data, encoding=encoding)
        self._names = {**names(rebuilder), **(extra or {})}
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        # Protocols 0 to 2 write Python 2's names.
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        module = module.replace("numpy.core.", "numpy._core.", 1)
        allowed = self._names.get((module, name))
        if allowed is not None:
            return allowed
        if module == "torch" and name in DTYPES:
            return Name(name)
        if module in ("torch", "torch.storage") and name in STORAGES:
            return Name(name)
        if module == "torch._utils" and name in _NOT_DENSE:
            raise LayoutError(
                f"holds {_NOT_DENSE[name]} that cannot become rows; "
                "save it again as a dense tensor of real numbers"
            )
        raise UnsafeFileError(refusal(f"{module}.{name}"))

    def persistent_load(self, identity: Any) -> Held:
        if self._persistent is None:
            raise UnreadableFileError("the pickle refers to storages kept outside it")
        return self._persistent(identity)


def refusal(name: str) -> str:
    """Why an object of that class is not opened, and the way round."""
    return (
        f"refused: it holds {name}, which only running code from the file could rebuild; "
        "actstore opens tensors and plain values. Where you trust the file, load it with its own "
        "project and save its tensors again as a plain dict"
    )


def names(build: Rebuilder) -> dict[tuple[str, str], Held]:
    """What a pickle may mention, as (module, name), and what it gets instead."""
    return {
        ("torch._utils", "_rebuild_tensor"): Call(build.tensor),
        ("torch._utils", "_rebuild_tensor_v2"): Call(build.tensor),
        ("torch._utils", "_rebuild_tensor_v3"): Call(build.tensor_of_type),
        ("torch._utils", "_rebuild_parameter"): Call(build.parameter),
        ("torch._utils", "_rebuild_parameter_with_state"): Call(build.parameter),
        ("torch.storage", "_load_from_bytes"): Call(build.storage),
        ("torch", "Size"): Call(build.size),
        ("torch", "device"): Call(build.device),
        ("collections", "OrderedDict"): Call(build.mapping),
        ("collections", "Counter"): Call(build.mapping),
        ("collections", "defaultdict"): Call(build.mapping),
        ("_codecs", "encode"): Call(build.encode),
        ("builtins", "set"): Call(build.collection),
        ("builtins", "frozenset"): Call(build.collection),
        ("builtins", "bytearray"): Call(build.bytearray),
        ("builtins", "bytes"): Call(build.no_bytes),
        # Protocols 0 and 1 mention it before any custom class, which is the name to report.
        ("copyreg", "_reconstructor"): Call(build.custom),
        ("datetime", "date"): Call(build.date),
        ("datetime", "datetime"): Call(build.datetime),
        # The usual factories of a defaultdict.
        ("builtins", "list"): Name("list"),
        ("builtins", "dict"): Name("dict"),
        ("builtins", "int"): Name("int"),
        ("builtins", "float"): Name("float"),
        ("builtins", "str"): Name("str"),
    }
