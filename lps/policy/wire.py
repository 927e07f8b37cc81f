"""Messages of openpi's websocket protocol: msgpack, with arrays as maps of raw bytes, dtype and shape.  No pickle.

| value | in msgpack |
| --- | --- |
| array | {b"__ndarray__": True, b"data": bytes in C order, b"dtype": "<f4", b"shape": [...]} |
| numpy scalar | {b"__npgeneric__": True, b"data": number, b"dtype": "<f4"} |

Decoding takes time and memory in proportion to the length of the message, whatever its content.  Needs numpy and
msgpack alone.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgpack
import numpy as np

from lps.errors import UserError, printable

PROTOCOL = 1
"""Version of the request and answer keys beyond openpi's."""
MOST_AXES = 8
MOST_ITEMS = 256
"""Most entries of a map or list."""
LONGEST_TEXT = 1 << 16
"""Most bytes of a text, such as a prompt."""
_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


class BadMessage(UserError):
    """A message that is not of the protocol."""


def encode(value: Any) -> bytes:
    """Return a message: nested dicts and lists of plain values, arrays and numpy scalars.  BadMessage for any other
    type or dtype."""
    try:
        packed: bytes = msgpack.packb(value, default=_pack)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessage(f"cannot send this value: {error}. Send numbers, texts and arrays of numbers") from None
    return packed


def decode(data: bytes) -> Any:
    """Return the value of a message.  Arrays are read-only views of `data`.  BadMessage for anything else than one
    whole message of plain values and arrays of numbers."""
    try:
        return msgpack.unpackb(
            data,
            object_hook=_unpack,
            ext_hook=_no_extension,
            max_array_len=MOST_ITEMS,
            max_map_len=MOST_ITEMS,
            max_str_len=LONGEST_TEXT,
        )
    except BadMessage:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = printable(str(error)).partition("\n")[0][:200].rstrip(".") or type(error).__name__
        raise BadMessage(f"the message is not msgpack as openpi sends it: {reason}. Send a map of arrays") from None


def _pack(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray | np.generic) and not _DTYPE.fullmatch(value.dtype.str):
        raise TypeError(f"the dtype {value.dtype}")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"the type {type(value).__name__}")


def _unpack(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return _array(value.get(b"data"), _dtype(value), value.get(b"shape"))
    if b"__npgeneric__" in value:
        number = value.get(b"data")
        if type(number) not in (bool, int, float):
            raise BadMessage(f"a numpy scalar holds {_kind(number)}. Send a number")
        with np.errstate(over="ignore"):
            return _dtype(value).type(number)
    return value


def _array(data: Any, dtype: np.dtype, shape: Any) -> np.ndarray:
    """The array, after its length is known to be that of the data: nothing is allocated for a shape."""
    if type(shape) is not list or len(shape) > MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise BadMessage(f"the shape of an array is not a list of at most {MOST_AXES} whole numbers. Send its shape")
    size = math.prod(shape) * dtype.itemsize
    if type(data) is not bytes or len(data) != size:
        given = f"{len(data)} bytes" if type(data) is bytes else _kind(data)
        needed = f"{size} bytes" if size < 1 << 63 else "too many bytes"
        raise BadMessage(f"an array of {dtype} {tuple(shape)} needs {needed}; the message has {given}. Send all")
    return np.frombuffer(data, dtype).reshape(shape)


def _dtype(value: dict[Any, Any]) -> np.dtype:
    name = value.get(b"dtype")
    if type(name) is not str or not _DTYPE.fullmatch(name):
        raise BadMessage(f"an array has the dtype {name!r:.40}. Send bool, integers or floats of at most 8 bytes")
    return np.dtype(name)


def _no_extension(code: int, data: bytes) -> Any:
    raise BadMessage(f"the message has an extension type, {code}. Send numbers, texts and arrays of numbers")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
