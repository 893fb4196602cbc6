"""What processes tell each other about answers, as text: plain values, arrays and tensors, and nothing that runs."""

import base64
import json
from dataclasses import asdict
from typing import IO, Any

import torch

from ..kernels.inspect import Compiled
from ..said import Said
from .judge import Raised, Refused

ERRORS = {kind.__name__: kind for kind in (RuntimeError, TimeoutError, ValueError)}
PLAIN = (bool, int, float, str)


def pack(value: Any) -> bytes:
    """A value as text.

    Raises:
        TypeError: a kind that is not told.
    """
    return json.dumps(_plain(value)).encode()


def unpack(text: bytes) -> Any:
    """The value that ``pack`` was given."""
    return _value(json.loads(text))


def send(pipe: IO[bytes], text: bytes) -> None:
    """Write a packed value, its length first."""
    pipe.write(len(text).to_bytes(8, "big") + text)
    pipe.flush()


def receive(pipe: IO[bytes]) -> bytes:
    """Read what ``send`` wrote.

    Raises:
        EOFError: there is nothing more.
    """
    length = int.from_bytes(pipe.read(8), "big")
    text = pipe.read(length)
    if not length or len(text) < length:
        raise EOFError
    return text


def _plain(x: Any) -> Any:
    """Values of JSON stay; of any other the kind stands in front."""
    if x is None or type(x) in PLAIN:
        return x
    if isinstance(x, Said):
        return ["Said", x.template, _plain(x.values)]
    if isinstance(x, torch.Tensor):
        flat = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return ["tensor", str(x.dtype)[6:], list(x.shape), base64.b64encode(flat.numpy().tobytes()).decode()]
    if isinstance(x, torch.dtype):
        return ["dtype", str(x)[6:]]
    if isinstance(x, bytes):
        return ["bytes", base64.b64encode(x).decode()]
    if isinstance(x, range):
        return ["range", x.start, x.stop, x.step]
    if isinstance(x, dict):
        return ["dict", [[_plain(key), _plain(value)] for key, value in x.items()]]
    if isinstance(x, (Raised, Refused)):
        return [type(x).__name__, *map(_plain, vars(x).values())]
    if isinstance(x, Compiled):
        return ["Compiled", asdict(x)]
    if type(x).__name__ in ERRORS:
        return ["error", type(x).__name__, _plain(x.args[0])]
    if isinstance(x, (tuple, list, set)):
        return [type(x).__name__ if type(x) in (list, set) else "tuple", [_plain(each) for each in x]]
    raise TypeError(f"a {type(x).__name__}")


def _value(x: Any) -> Any:
    if not isinstance(x, list):
        return x
    kind, *rest = x
    if kind == "Said":
        return Said(rest[0], **_value(rest[1]))
    if kind == "tensor":
        name, shape, text = rest
        data = torch.frombuffer(bytearray(base64.b64decode(text) or b"\0"), dtype=torch.uint8)
        dtype = getattr(torch, name)
        return data.view(dtype).reshape(shape) if text else torch.empty(shape, dtype=dtype)
    if kind == "dtype":
        return getattr(torch, rest[0])
    if kind == "bytes":
        return base64.b64decode(rest[0])
    if kind == "range":
        return range(*rest)
    if kind == "dict":
        return {_value(key): _value(value) for key, value in rest[0]}
    if kind == "error":
        return ERRORS[rest[0]](_value(rest[1]))
    if kind == "Compiled":
        return Compiled(**rest[0])
    if kind in ("Raised", "Refused"):
        return (Raised if kind == "Raised" else Refused)(*map(_value, rest))
    return {"tuple": tuple, "list": list, "set": set}[kind](_value(each) for each in rest[0])
