"""Thousands of damaged headers and indexes: each gives a clear error or a right result."""

import json
import random
import resource
import struct
from pathlib import Path

import pytest

from dsv3.checkpoint import read

TENSORS = {
    "a.weight": {"dtype": "F8_E4M3", "shape": [3, 4], "data_offsets": [0, 12]},
    "a.weight_scale_inv": {"dtype": "F32", "shape": [1, 1], "data_offsets": [12, 16]},
    "b": {"dtype": "BF16", "shape": [5], "data_offsets": [16, 26]},
    "empty": {"dtype": "F32", "shape": [0, 7], "data_offsets": [26, 26]},
}
ODD = [
    None,
    True,
    -1,
    0,
    1.0,
    13,
    2**31,
    2**63,
    2**64,
    10**400,
    "F32",
    "",
    [],
    [[]],
    {},
    "../x",
    "a\u0000b",
    float("inf"),
]


def file_of(header: bytes, data: bytes = bytes(range(26))) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def write(folder: Path, shard: bytes, index: bytes) -> None:
    (folder / "model.safetensors").write_bytes(shard)
    (folder / read.INDEX).write_bytes(index)


def is_right(folder: Path) -> bool:
    """Opens it; False if that is refused in the way that errors are. A result must lie inside its files."""
    try:
        found = read.open_folder(folder)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert len(text) < 2000
        assert str(folder) in text or "is both in" in text
        return False
    spans = sorted((e.start, e.stop) for e in found.values() if e.stop > e.start)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    for entry in found.values():
        assert 8 <= entry.start <= entry.stop <= entry.file.stat().st_size
        assert len(found.read(entry.name)) == entry.stop - entry.start
    return True


def odd(value: object, rng: random.Random) -> object:
    """``value`` with one of its parts replaced by something that does not belong there."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {rng.choice(["__metadata__", "", "b", key + "x"]) if k == key else k: v for k, v in value.items()}
        return value | {key: odd(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [odd(v, rng) if i == at else v for i, v in enumerate(value)]
    return rng.choice(ODD)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """``data`` with bytes changed, cut out, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, n = rng.randrange(len(changed)), rng.randrange(1, 9)
        how = rng.randrange(4) if len(changed) > 20 else 0
        if how == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del changed[at : at + n]
        elif how == 2:
            changed[at:at] = changed[at : at + n]
        else:
            del changed[max(at, 1) :]
    return bytes(changed)


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_refused_or_harmless(tmp_path, seed):
    rng = random.Random(seed)
    header = json.dumps(TENSORS).encode()
    index = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(TENSORS, "model.safetensors")}).encode()
    write(tmp_path, file_of(header), index)
    assert is_right(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for i in range(500):
        if i % 4 == 0:
            write(tmp_path, flipped(file_of(header), rng), index)
        elif i % 4 == 1:
            write(tmp_path, file_of(json.dumps(odd(TENSORS, rng)).encode()), index)
        elif i % 4 == 2:
            write(tmp_path, file_of(header), flipped(index, rng))
        else:
            write(tmp_path, file_of(header), json.dumps(odd(json.loads(index), rng)).encode())
        refused += not is_right(tmp_path)
    assert refused > 300
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"1," * 5000 + b'1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[65536,65536,65536,65536,65536],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[' + b"9" * 5000 + b",4]}}",
        b"\xff\xfe" + b"{}",
    ],
    ids=["nested", "twice", "overlapping", "many dimensions", "huge", "long number", "not UTF-8"],
)
def test_headers_made_to_hurt(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(file_of(header))
    assert not is_right(tmp_path)


def test_links_to_weights_are_followed_wherever_they_lead(tmp_path):
    """Who edits config.json keeps no second copy of 700 GB."""
    outside = tmp_path / "outside"
    outside.write_bytes(file_of(json.dumps(TENSORS).encode()))
    inside = tmp_path / "folder"
    inside.mkdir()
    link = inside / "model.safetensors"
    for to in (outside, "real"):
        (inside / "real").write_bytes(outside.read_bytes())
        link.symlink_to(to)
        assert set(read.open_folder(inside)) == set(TENSORS)
        link.unlink()
    for to in ("/dev/zero", "nowhere"):
        link.symlink_to(to)
        assert not is_right(inside)
        link.unlink()


def test_the_hub_caches_links_are_followed(tmp_path):
    blob = tmp_path / "models--x" / "blobs" / "1234"
    snapshot = tmp_path / "models--x" / "snapshots" / "main"
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob.write_bytes(file_of(json.dumps(TENSORS).encode()))
    (snapshot / "model.safetensors").symlink_to("../../blobs/1234")
    assert set(read.open_folder(snapshot)) == set(TENSORS)
