"""GGUF headers: what a file says, split files, and files that lie."""

import os
import struct

import pytest

from dsv3.checkpoint.gguf import open_gguf

STRING, UINT32, ARRAY = 8, 4, 9


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def made(values=(), tensors=(), data=0, version=3, count=None):
    """A file with ``values`` (name, type, bytes), ``tensors`` (name, shape, type, offset), then ``data`` bytes."""
    head = b"GGUF" + struct.pack("<IQQ", version, count or len(tensors), len(values))
    head += b"".join(text(name) + struct.pack("<I", kind) + raw for name, kind, raw in values)
    for name, shape, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return head + bytes(-len(head) % 32) + bytes(data)


VALUES = (
    ("general.architecture", STRING, text("deepseek2")),
    ("deepseek2.block_count", UINT32, struct.pack("<I", 61)),
    ("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("<think>")),
    ("tokenizer.ggml.types", ARRAY, struct.pack("<IQ3I", UINT32, 3, 1, 2, 3)),
)
TENSORS = (("blk.3.ffn_up_exps.weight", (256, 4, 2), 12, 0), ("output.weight", (32, 3), 8, 1152))


@pytest.fixture
def file(tmp_path):
    (tmp_path / "it.gguf").write_bytes(made(VALUES, TENSORS, 1152 + 102))
    return tmp_path / "it.gguf"


def test_what_a_file_says(file):
    found = open_gguf(file)
    assert found.architecture == "deepseek2"
    assert found.values["deepseek2.block_count"] == 61
    assert (found.values["tokenizer.ggml.tokens"], found.values["tokenizer.ggml.types"]) == (2, 3)
    assert [(w.name, w.shape, w.kind, w.nbytes, w.routed) for w in found.weights] == [
        ("blk.3.ffn_up_exps.weight", (256, 4, 2), "Q4_K", 1152, True),
        ("output.weight", (32, 3), "Q8_0", 102, False),
    ]
    assert found.nbytes == file.stat().st_size


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.gguf: no such file$"):
        open_gguf(tmp_path / "none.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    (tmp_path / "hanging.gguf").symlink_to("none.gguf")
    for name in ("pipe", "loop", "hanging"):
        with pytest.raises(ValueError, match=f"{name}.gguf: not a file"):
            open_gguf(tmp_path / f"{name}.gguf")


def test_a_split_file_is_read_whole_whichever_part_is_named(tmp_path):
    for i, tensor in enumerate(TENSORS, 1):
        one = (*tensor[:3], 0)
        (tmp_path / f"r1-0000{i}-of-00002.gguf").write_bytes(made(VALUES if i == 1 else (), [one], 1152))
    found = open_gguf(tmp_path / "r1-00002-of-00002.gguf")
    assert [w.name for w in found.weights] == [t[0] for t in TENSORS]
    assert found.architecture == "deepseek2"
    (tmp_path / "r1-00001-of-00002.gguf").unlink()
    with pytest.raises(FileNotFoundError, match="one of 2 files, and 1 are not there: r1-00001-of-00002.gguf; fetch"):
        open_gguf(tmp_path / "r1-00002-of-00002.gguf")


LIES = {
    "not a GGUF file": b"GGML" + bytes(100),
    "damaged": b"GGUF",
    "version 9": made(version=9),
    "claims 4,000,000,000 tensors": made(count=4_000_000_000),
    "claims a text of": made([("x" * 3, STRING, struct.pack("<Q", 1 << 60))]),
    "claims an array of": made([("x", ARRAY, struct.pack("<IQ", STRING, 1 << 60))]),
    "claims an array": made([("x", ARRAY, struct.pack("<IQ", ARRAY, 1))]),
    "of type 99": made([("x", 99, b"")]),
    "general.alignment is 0": made([("general.alignment", UINT32, bytes(4))]),
    "has 9 dimensions": made(tensors=[("x", (1,) * 9, 0, 0)]),
    "its tensors need": made(tensors=[("x", (1 << 62, 1 << 62), 0, 0)]),
    "fetch it again": made(VALUES, TENSORS, 1152),
}


@pytest.mark.parametrize("says", LIES)
def test_a_file_that_lies_is_one_line(says, tmp_path):
    (tmp_path / "it.gguf").write_bytes(LIES[says])
    with pytest.raises(ValueError, match=says) as error:
        open_gguf(tmp_path / "it.gguf")
    assert len(str(error.value)) < 400


def test_every_cut_of_a_header_is_told(file):
    data = file.read_bytes()
    for n in range(4, len(data) - 1254, 7):
        file.write_bytes(data[:n])
        with pytest.raises(ValueError, match="fetch it again"):
            open_gguf(file)


def test_a_new_type_of_weight_is_no_reason_to_refuse(tmp_path):
    (tmp_path / "it.gguf").write_bytes(made(VALUES, [("x", (32,), 77, 0)], 40))
    assert open_gguf(tmp_path / "it.gguf").weights[0][2:] == ("77", None)
