"""What travels between a policy server and its clients: msgpack maps with arrays, as openpi's client sends them, or JSON.

    msgpack    {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [4]}     {b"__npgeneric__": True, b"data", b"dtype"}
    JSON       numbers, texts, lists; arrays also as {"__numpy__": base64 of the bytes, "dtype": "<f4", "shape": [4]}

Messages come from anywhere. An array is a view of the bytes that came, so a shape that announces more than they hold is refused
before anything is allocated; objects have no form here, and nothing is unpickled.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from gato.disk import shown
from gato.episode import check_values
from gato.given import kind, nearest
from gato.spec import FieldSpec, Modality, TaskSpec

MAX_TEXT = 4000  # characters of one text
MAX_LIST = 4096  # elements of a list; longer ones are sent as arrays
MAX_KEYS = 256
MAX_AXES = 8
ENVELOPE = 2**16  # bytes of a message beside the values of its observation
CONTROLS = ("task", "session", "reset", "end", "episode", "reward")  # what a message may say beside its observation
NESTED = "observation"
FAULT = "this is a fault of the server, not of the request"

_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


class Refused(ValueError):
    """A message that is not what was expected; the connection and its session go on as if it had not come."""


def most_bytes(task: TaskSpec) -> int:
    """The size up to which messages about a task are read: every number may take as much room as it does in JSON."""
    sizes = [4 * MAX_TEXT if f.modality is Modality.TEXT else 26 * f.size for f in task.observations]
    return ENVELOPE + sum(sizes)


# -- bytes -> maps -----------------------------------------------------------------------------------


def read_msgpack(data: bytes) -> dict[str, Any]:
    """**Raises:** `Refused` for what is no map of texts to values, or announces more than it holds."""
    try:
        message = msgpack.unpackb(
            data, object_hook=_array_of_msgpack, ext_hook=_refuse_extension, raw=False, strict_map_key=True,
            max_array_len=MAX_LIST, max_map_len=MAX_KEYS, max_ext_len=64,
        )  # fmt: skip
    except Refused:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as error:  # what its extension raises
        what = "" if not data.startswith(b"\x80\x04") and not data.startswith(b"\x80\x05") else "; a pickle is never opened"
        raise Refused(f"the message is no msgpack map ({_short(error)}){what}") from None
    return _checked_map(message)


def read_json(data: bytes) -> dict[str, Any]:
    """**Raises:** `Refused` for what is no JSON object."""
    try:
        message = json.loads(data, object_hook=_array_of_json)
    except Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise Refused(f"the request is no JSON object ({_short(error)})") from None
    return _checked_map(message)


def _checked_map(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Refused(f"the message is {kind(message)}, expected a map of names to values")
    return {_as_text(key): value for key, value in message.items()}


def _as_text(key: Any) -> str:
    if isinstance(key, bytes):
        key = key.decode("utf-8", "replace")
    if not isinstance(key, str):
        raise Refused(f"a key of the message is {kind(key)}, expected a text")
    return key


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__


def _refuse_extension(code: int, data: bytes) -> Any:
    raise Refused(f"the message has a msgpack extension of type {code}; send numbers, texts, lists, maps and arrays")


def _array_of_msgpack(found: dict[Any, Any]) -> Any:
    if b"__ndarray__" in found:
        return _array(found.get(b"data"), found.get(b"dtype"), found.get(b"shape"))
    if b"__npgeneric__" in found:
        value, dtype = found.get(b"data"), found.get(b"dtype")
        if isinstance(value, str):
            return value
        if not isinstance(value, (bool, int, float)):
            raise Refused(f"a number of NumPy is {kind(value)}, expected a number, true or false")
        try:
            return np.array(value, _dtype(dtype))
        except OverflowError:
            raise Refused(f"a number of NumPy is {value}, which dtype {dtype} does not hold") from None
    return found


def _array_of_json(found: dict[str, Any]) -> Any:
    if "__numpy__" not in found:
        return found
    try:
        data = base64.b64decode(found["__numpy__"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise Refused("an array's '__numpy__' is no base64 of its bytes") from None
    return _array(data, found.get("dtype"), found.get("shape"))


def _array(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    """A view of the bytes. **Raises:** `Refused` where they are not as many as dtype and shape say."""
    if not isinstance(data, bytes):
        raise Refused(f"an array's data is {kind(data)}, expected bytes")
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_AXES or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise Refused(f"an array's shape is {shown(shape)}, expected at most {MAX_AXES} whole numbers")
    form = _dtype(dtype)
    size = math.prod(shape) * form.itemsize
    if size != len(data):
        raise Refused(f"an array of shape {tuple(shape)} and dtype {dtype} has {len(data)} bytes, expected {size}")
    return np.frombuffer(data, form).reshape(shape)


def _dtype(dtype: Any) -> np.dtype:
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise Refused(f"an array's dtype is {shown(dtype)}, expected numbers or bools such as '<f4', '<i8', '|u1' or '|b1'")
    return np.dtype(dtype)


# -- maps -> observations ------------------------------------------------------------------------------


def split(message: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a message says about the session, and what is left: the observation."""
    controls = {key: message[key] for key in CONTROLS if key in message}
    return controls, {key: value for key, value in message.items() if key not in controls}


def read_observation(task: TaskSpec, values: Mapping[str, Any], timestep: int = 0) -> dict[str, np.ndarray]:
    """`{field name: (1, *shape)}` out of the names of the fields, or out of `observation` as the environment gives it.

    **Raises:** `Refused` for missing and unknown names, and as `gato.episode.check_values`.
    """
    if set(values) == {NESTED} and (isinstance(values[NESTED], Mapping) or not any(f.path for f in task.observations)):
        if isinstance(values[NESTED], Mapping):
            values = {_as_text(key): value for key, value in values[NESTED].items()}
        elif len(task.observations) == 1:
            values = {task.observations[0].name: values[NESTED]}
    flat, used = {}, set()
    for spec in task.observations:
        flat[spec.name], key = _part(task, spec, values)
        used.add(key)
    if unknown := sorted(set(values) - used):
        names = [f.name for f in task.observations]
        raise Refused(f"task '{task.name}' has no observation '{unknown[0][:80]}'{nearest(unknown[0][:80], names)}; {_expected(task)}")
    return {spec.name: _row(task, spec, flat[spec.name], timestep) for spec in task.observations}


def _part(task: TaskSpec, spec: FieldSpec, values: Mapping[str, Any]) -> tuple[Any, str]:
    """A field's value and the name that it came by."""
    if spec.name in values:
        return values[spec.name], spec.name
    part: Any = values
    for key in spec.path:
        if isinstance(part, Mapping) and key in part:
            part = part[key]
        elif isinstance(part, Mapping) and str(key) in part:
            part = part[str(key)]
        elif isinstance(part, (list, tuple)) and isinstance(key, int) and key < len(part):
            part = part[key]
        else:
            break
    else:
        if spec.path:
            return part, str(spec.path[0])
    raise Refused(f"the observation '{spec.name}' is missing; {_expected(task)}")


def _expected(task: TaskSpec) -> str:
    fields = [f"{f.name} ({f.modality}{' ' + 'x'.join(map(str, f.shape)) if f.shape else ''})" for f in task.observations]
    return f"task '{task.name}' expects {', '.join(fields)}"


def _row(task: TaskSpec, spec: FieldSpec, value: Any, timestep: int) -> np.ndarray:
    """(1, *shape) of the field's dtype."""
    label = f"task '{task.name}': observation '{spec.name}'"
    if spec.modality is Modality.TEXT:
        if not isinstance(value, str):
            raise Refused(f"{label} is {kind(value)}, expected a text")
        if len(value) > MAX_TEXT:
            raise Refused(f"{label} has {len(value)} characters, at most {MAX_TEXT} are read")
        return np.array([value], object)
    array = _numbers(label, value)
    wanted = np.dtype(spec.dtype)
    if array.dtype.kind in "biu" and wanted.kind in "iu" and array.shape == spec.shape:
        limits = np.iinfo(wanted)
        if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
            raise Refused(f"{label} has values from {array.min()} to {array.max()}, which {wanted} does not hold")
        array = array.astype(wanted)
    try:
        check_values(task.name, spec, array[None], 1, first=timestep)
    except ValueError as error:
        raise Refused(str(error).split("; repair the source")[0].split("; widen the range")[0]) from None
    return np.ascontiguousarray(array[None].astype(wanted))


def _numbers(label: str, value: Any) -> np.ndarray:
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if isinstance(value, (list, tuple, bool, int, float)):
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError):
            array = np.empty(0, object)
        if array.dtype.kind in "biuf":
            return array
        raise Refused(f"{label} is a list that is no array of numbers; give rows of equal length")
    raise Refused(f"{label} is {kind(value)}, expected an array of numbers")


# -- answers -> bytes ------------------------------------------------------------------------------------


def write_msgpack(message: Mapping[str, Any]) -> bytes:
    return msgpack.packb(message, default=_msgpack_form)


def _msgpack_form(value: Any) -> Any:
    """As openpi's own packer writes them."""
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} has no msgpack form")


def write_json(message: Any) -> bytes:
    return json.dumps(message, default=_json_form, allow_nan=False).encode()


def _json_form(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
