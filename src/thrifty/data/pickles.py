"""Pickled batches read without running anything that they name.

A pickle is a program. This reader knows the instructions that plain containers, strings, numbers and numpy arrays
need, and answers the three numpy names in such a file with stand-ins that only keep bytes; everything else is an
error. Python 2 strings arrive as bytes.
"""

import io
import math
import pickle
from typing import Any

import numpy as np

from thrifty.core.errors import DataError

_DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"}
_INSTRUCTIONS = (  # noqa: SIM905
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE "
    "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD"
).split()


class _DType:
    """Stands for numpy.dtype: keeps the name and the byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode("ascii") if isinstance(name, bytes) else str(name)
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else str(order)

    def resolve(self) -> np.dtype:
        if self.name.lstrip("<>=|") not in _DTYPES or self.order not in "<>=|" or len(self.order) != 1:
            raise ValueError(f"array of type {self.name!r} {self.order!r}")
        return np.dtype(self.name.lstrip("<>=|")).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


class _Array:
    """Stands for numpy.ndarray while the pickle is read."""

    shape: tuple[int, ...] = ()
    dtype: Any = None
    fortran = False
    data: Any = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def resolve(self) -> np.ndarray:
        if not isinstance(self.dtype, _DType) or not isinstance(self.data, bytes):
            raise ValueError("an array without bytes of numbers")
        dtype = self.dtype.resolve()
        if math.prod(self.shape) * dtype.itemsize != len(self.data) or min(self.shape, default=1) < 0:
            raise ValueError(f"an array of shape {self.shape} with {len(self.data)} bytes")
        return np.frombuffer(self.data, dtype=dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _new_array(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stand for _codecs.encode, by which Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("_codecs", "encode"): _encode,
}


# The pure-Python unpickler: its table of instructions can be cut, and a damaged file cannot make it reserve a memo of
# 2^32 entries, as the C one does.
class _Reader(pickle._Unpickler):
    dispatch = {  # noqa: RUF012
        code: action
        for code, action in pickle._Unpickler.dispatch.items()
        if code in {getattr(pickle, name)[0] for name in _INSTRUCTIONS}
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise ValueError(f"it names {module}.{name}, which no data batch needs")
        return _STAND_INS[module, name]

    def load_build(self) -> None:
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        state = stack.pop()
        if not isinstance(stack[-1], _Array | _DType):
            raise ValueError("it sets the state of something that is no array")
        stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """Return the dict in a pickle; keys become str, arrays numpy arrays, other values stay as they are.

    `where` names the file in errors. Raises DataError, with the byte offset, for anything but a whole pickle of a dict
    of plain values.
    """
    file = io.BytesIO(content)
    try:
        value = _Reader(file, encoding="bytes").load()
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not a dict")
        return {_text(key): _resolve(item) for key, item in value.items()}
    # A damaged program can fail in any way at all: by an index, a type, a missing key, recursion.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise DataError(f"{where}: not a data batch that can be read, near byte {file.tell()}: {reason}") from error


def _resolve(value: Any) -> Any:
    return value.resolve() if isinstance(value, _Array) else value


def _text(key: Any) -> str:
    return key.decode("ascii") if isinstance(key, bytes) else str(key)
