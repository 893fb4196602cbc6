"""What processes tell each other: all kinds of results as they were, and nothing that runs."""

import io

import pytest
import torch

from dsv3.lessons.judge import Raised, Refused, differs
from dsv3.lessons.wire import pack, receive, send, unpack

VALUES = [
    None, True, 3, -1.5, float("inf"), "text", b"\x00\xff", (1, [2.0, "x"], {"a": {1, 2}, 3: None}), range(1, 9, 2),
    torch.float8_e4m3fn, torch.arange(6.0).view(2, 3).T, torch.tensor(2.5, dtype=torch.bfloat16), torch.empty(0, 3),
    torch.randn(3, 4).to(torch.float8_e4m3fn), torch.tensor([True, False]), torch.tensor(7), Raised("KeyError", "x"),
    Refused("it does"), torch.Size([2, 3]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back(value):
    back = unpack(pack(value))
    if isinstance(value, torch.Tensor):
        assert back.dtype == value.dtype
        assert back.shape == value.shape
        assert torch.equal(back.double(), value.double())
    else:
        assert not differs(back, tuple(value) if isinstance(value, torch.Size) else value, exact=True)


def test_what_is_not_told():
    for value in (object(), lambda x: x, [print]):
        with pytest.raises(TypeError, match="a "):
            pack(value)
    error = unpack(pack(TimeoutError("late")))
    assert isinstance(error, TimeoutError)
    assert str(error) == "late"


def test_a_pipe_that_ends_is_told():
    pipe = io.BytesIO()
    send(pipe, pack([1, 2]))
    assert unpack(receive(io.BytesIO(pipe.getvalue()))) == [1, 2]
    for cut in (0, 5, 12):
        with pytest.raises(EOFError):
            receive(io.BytesIO(pipe.getvalue()[:cut]))
