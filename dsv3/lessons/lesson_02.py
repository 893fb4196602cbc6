"""The parts of lesson 02: a download whose every step is the learner's. Imports no torch.

Files are given open, never by name, so that the same part reads a disk, memory, or a server by range requests.
``transplant_02`` puts the parts together.
"""

import hashlib
import json
import math

from .inputs_02 import crafted, fetched, follows, listed, numbers, read_header, watched_check
from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def header(f):
    """f: a safetensors file, open at its beginning -> {name: (dtype, shape, start, stop)}.

    The shape is a tuple. The tensor's bytes are those from start up to stop, counted in the file.
    Only the header is read.
    """
    length = int.from_bytes(f.read(8), "little")
    described = json.loads(f.read(length))
    described.pop("__metadata__", None)
    begin = 8 + length
    found = {}
    for name, tensor in described.items():
        start, stop = tensor["data_offsets"]
        found[name] = tensor["dtype"], tuple(tensor["shape"]), begin + start, begin + stop
    return found


def misplaced(weight_map, found):
    """weight_map {tensor: file} of the index, found {file: names of its tensors} -> two sets.

    missing: tensors that are not in the file that the index names. A whole file may be absent.
    extra: tensors in a file where the index does not have them.
    """
    missing = {name for name, file in weight_map.items() if name not in found.get(file, ())}
    extra = {name for file in found for name in found[file] if weight_map.get(name) != file}
    return missing, extra


def stored(dtype, shape):
    """dtype "F8_E4M3", "BF16" or "F32", shape of one or two sides -> bytes in the checkpoint.

    To an FP8 matrix belong its scales: 4 bytes for each block of 128 x 128, and a block at the edge
    that is not full has one, too.
    """
    count = math.prod(shape)
    if dtype != "F8_E4M3":
        return count * {"BF16": 2, "F32": 4}[dtype]
    blocks = math.prod(-(-side // 128) for side in shape)
    return count + 4 * blocks


def fetch(get, f, size):
    """Bring the file f, open for writing, to size bytes. What is in it already stays.

    get(headers) -> (status, pieces). {"Range": "bytes=100-"} asks for byte 100 and all after it.
    Status 206: the pieces are just those. Status 200: no ranges here, they are the whole file.
    Both get and the pieces may raise OSError, or end too early without a word. Then ask again.
    After 3 requests in a row without a new byte, raise OSError.
    """
    failures = 0
    while (there := f.seek(0, 2)) < size:
        try:
            status, pieces = get({"Range": f"bytes={there}-"})
            if status == 200:
                f.truncate(f.seek(0))
            for piece in pieces:
                f.write(piece)
        except OSError:
            pass
        failures = 0 if f.tell() > there else failures + 1
        if failures == 3:
            raise OSError(f"3 requests without a new byte after byte {there}")


def as_listed(f, size, sha256):
    """f: a file, open for reading -> whether it has the listed size and hash (in hexadecimal).

    It is read only if its size is right, and in pieces of a megabyte: it may be very large.
    """
    if f.seek(0, 2) != size:
        return False
    f.seek(0)
    seen = hashlib.sha256()
    while piece := f.read(1 << 20):
        seen.update(piece)
    return seen.hexdigest() == sha256


# --------------------------------------------------------------------------------------------------- the checks

TWO = {"__metadata__": {"format": "pt"}, "b": numbers(6, 14, "F32", (2,)), "a": numbers(0, 6, "BF16", (3, 1))}
SPLIT = {"l.1.up": "one", "l.1.up_scale": "two", "l.10.up": "two", "head": "three"}


def server(*script, there=0):
    return lambda: follows(*script, there=there)


LARGE = bytes(range(256)) * 20_000  # 5 MB
SMALL = LARGE[:1000]

PARTS = [
    Part(
        header, "a safetensors header", 2, 12,
        'Eight bytes, `int.from_bytes(..., "little")`, are N. N bytes of JSON follow. `data_offsets` count from byte '
        "8 + N of the file. `__metadata__` is not a tensor.",
        (
            Witness("one tensor: its bytes begin right after the header", lambda: crafted({"a": numbers(0, 6, "BF16", (3,))}, 6), read_header),
            Witness("__metadata__ is left out, and tensors may be listed in any order", lambda: crafted(TWO, 14), read_header),
            Witness("spaces at the end of the header belong to it", lambda: crafted(TWO, 14, padding=5), read_header),
            Witness("a number has an empty shape, ()", lambda: crafted({"s": numbers(0, 4, "F32")}, 4), read_header),
            Witness("no tensor at all", lambda: crafted({"__metadata__": {}}, 0), read_header),
            Witness("the numbers after the header are not read: they may be 4 GB", lambda: crafted(TWO, 90_000, padding=300), read_header),
        ),
        (
            Fault("begin = 8 + length", "begin = 0", "data_offsets count from the end of the header, not from the file's first byte: add 8 + N"),
            Fault("begin = 8 + length", "begin = length", "the eight bytes of the length are forgotten: the header ends at byte 8 + N"),
            Fault("begin = 8 + length", "begin = 8", "the N bytes of the header are forgotten: it ends at byte 8 + N"),
            Fault('    described.pop("__metadata__", None)\n', "", "__metadata__ is no tensor: leave it out"),
            Fault('tuple(tensor["shape"])', 'tensor["shape"]', "the shape is a list, as JSON has it: make it a tuple"),
            Fault('"little"', '"big"', "the length is little-endian: the lowest byte comes first"),
            Fault("json.loads(f.read(length))", "json.loads(f.read()[:length])", "it reads the whole file: with 4 GB after the header that takes minutes, and the memory"),
            Fault("begin + start, begin + stop", "begin + start, stop - start", "the last number is where the tensor stops, not how long it is"),
        ),
    ),
    Part(
        misplaced, "the index against the files", 2, 10,
        "`found.get(file, ())` is empty for a file that is not there. A name counts as found only in the file that the "
        "index has for it.",
        (
            Witness("all tensors where the index says: two empty sets", lambda: (SPLIT, {"one": ["l.1.up"], "two": ["l.1.up_scale", "l.10.up"], "three": ["head"]})),
            Witness("a file is absent: all its tensors are missing", lambda: (SPLIT, {"one": ["l.1.up"], "three": ["head"]})),
            Witness("a tensor in another file than the index says is both missing and extra", lambda: (SPLIT, {"one": ["l.1.up", "l.1.up_scale"], "two": ["l.10.up"], "three": ["head"]})),
            Witness("a tensor that the index does not name is extra", lambda: (SPLIT, {"one": ["l.1.up"], "two": ["l.1.up_scale", "l.10.up"], "three": ["head", "bias"]})),
            Witness("nothing was downloaded yet", lambda: (SPLIT, {})),
        ),
        (
            Fault("found.get(file, ())", "sum(map(list, found.values()), [])", "a tensor counts only in the file that the index names for it; elsewhere nobody will look"),
            Fault("found.get(file, ())", "found[file]", "a file may be absent: take an empty list for it"),
            Fault("weight_map.get(name) != file", "name not in weight_map", "a tensor in the wrong file is extra there, though the index knows its name"),
            Fault("return missing, extra", "return extra, missing", "missing comes first, then extra"),
            Fault("return missing, extra", "return missing, set()", "extra is never filled: tensors where the index does not have them"),
        ),
    ),
    Part(
        stored, "bytes of a tensor with its scales", 1, 10,
        "`-(-n // 128)` rounds up. An FP8 number takes one byte. Its scales are float32.",
        (
            Witness("BF16 takes 2 bytes", lambda: ("BF16", (3, 5))),
            Witness("F32 takes 4 bytes", lambda: ("F32", (7,))),
            Witness("one full block of FP8 has one scale", lambda: ("F8_E4M3", (128, 128))),
            Witness("blocks: 2 x 3 of them", lambda: ("F8_E4M3", (256, 384))),
            Witness("a block at the edge has a scale, though it is not full: 576 = 4.5 x 128", lambda: ("F8_E4M3", (576, 7168))),
            Witness("less than a block", lambda: ("F8_E4M3", (3, 130))),
        ),
        (
            Fault("-(-side // 128)", "side // 128", "blocks are rounded down: one that is not full has a scale, too"),
            Fault("math.prod(-(-side // 128) for side in shape)", "-(-count // 128**2)", "blocks are 128 x 128: count them along each side, then multiply"),
            Fault("math.prod(-(-side // 128) for side in shape)", "shape[0] * -(-shape[1] // 128)", "a block has 128 rows, too: a row has no scales of its own"),
            Fault(" + 4 * blocks", "", "the scales are forgotten: 4 bytes for each block"),
            Fault("4 * blocks", "blocks", "a scale is a float32, 4 bytes"),
            Fault('"BF16": 2', '"BF16": 4', "BF16 takes 2 bytes"),
        ),
    ),
    Part(
        fetch, "a download that goes on", 3, 15,
        "`f.seek(0, 2)` goes to the end and returns the position: that many bytes are there. Write the pieces as they "
        "come, inside of `try`. Afterwards compare `f.tell()` with where you began.",
        (
            Witness("a good connection: one request from byte 0", server((206, None)), fetched),
            Witness("25 of 60 bytes are there: only the rest is asked for", server((206, None), there=25), fetched),
            Witness("all is there: nothing is asked for", server(there=60), fetched),
            Witness("the connection breaks after 20 bytes: the next request begins at byte 20", server((206, 20), (206, None)), fetched),
            Witness("no connection at first: ask again", server((0, None), (206, 11), (0, None), (206, None)), fetched),
            Witness("the answer ends too early, without an error", server((207, 20), (206, None)), fetched),
            Witness("status 200: the server sends the whole file again, so what is there must go", server((200, None), there=25), fetched),
            Witness("three requests without a new byte: it must give up with an OSError", server((206, 20), (0, None), (206, 0), (0, None), (206, None)), fetched),
            Witness("a new byte makes the count of failures begin again", server(*[(0, None), (0, None), (206, 13)] * 4, (206, None)), fetched),
        ),
        (
            Fault("bytes={there}-", "bytes=0-", "each request begins at byte 0: ask for what is not there yet"),
            Fault("bytes={there}-", "bytes={there + 1}-", "it begins one byte too late: with n bytes there, the next is byte n, as the first is byte 0"),
            Fault("            if status == 200:\n                f.truncate(f.seek(0))\n", "", "status 200 brings the whole file: without starting again its first bytes stand there twice"),
            Fault("failures = 0 if f.tell() > there else failures + 1", "failures += 1", "a request that brought bytes is no failure: count from 0 again after it"),
            Fault("        failures = 0 if f.tell() > there else failures + 1\n", "", "it asks forever: after 3 requests in a row without a new byte, give up"),
            Fault("        except OSError:\n            pass\n", "        finally:\n            pass\n", "a broken connection is the ordinary case: catch the OSError and ask again"),
            Fault("while (there := f.seek(0, 2)) < size:", "for there in [f.seek(0, 2)]:", "one request is not enough: go on until all bytes are there"),
            Fault("if failures == 3:", "if failures == 2:", "give up after 3 requests without a new byte, not earlier"),
        ),
    ),
    Part(
        as_listed, "size first, then the hash", 2, 10,
        "`f.seek(0, 2)` returns the size without reading. `hashlib.sha256()` takes pieces with `update`; read until a "
        "piece is empty. `hashlib.file_digest` does the same in one line.",
        (
            Witness("the right file is right", lambda: listed(SMALL), watched_check),
            Witness("one bit is another, the size is right: only the hash tells", lambda: listed(SMALL, SMALL[:-9] + bytes([SMALL[-9] ^ 1]) + SMALL[-8:]), watched_check),
            Witness("a file with another size is wrong, and must not be read to know it: with 689 GB that saves hours", lambda: listed(SMALL, SMALL[:-1]), watched_check),
            Witness("a file that is too long is wrong, and is not read", lambda: listed(SMALL, SMALL + b"\0"), watched_check),
            Witness("an empty file in place of another", lambda: listed(SMALL, b""), watched_check),
            Witness("an empty file that should be empty", lambda: listed(b""), watched_check),
            Witness("a large file is read to its end, in pieces", lambda: listed(LARGE), watched_check),
            Witness("the last byte of a large file counts", lambda: listed(LARGE, LARGE[:-1] + b"\1"), watched_check),
        ),
        (
            Fault("    if f.seek(0, 2) != size:\n        return False\n", "", "it reads a file whose size is wrong already: look at the size first"),
            Fault("    f.seek(0)\n    seen = hashlib.sha256()\n    while piece := f.read(1 << 20):\n        seen.update(piece)\n    return seen.hexdigest() == sha256\n", "    return True\n", "the size alone passes a flipped bit: compare the hash, too"),
            Fault("f.seek(0, 2) != size", "f.seek(0, 2) < size", "a file that is too long is wrong, too"),
            Fault("    f.seek(0)\n", "", "after seek(0, 2) the file stands at its end: go back, or you hash nothing"),
            Fault("while piece := f.read(1 << 20):", "if piece := f.read(1 << 20):", "only the first megabyte is hashed: read until a piece is empty"),
            Fault("    while piece := f.read(1 << 20):\n        seen.update(piece)\n", "    seen.update(f.read())\n", "it reads the whole file at once: 4 GB do not fit into a small machine; read pieces"),
            Fault("seen.hexdigest()", "seen.digest()", "the listed hash is hexadecimal text: take hexdigest()"),
        ),
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def files_needed(weight_map, layers):
    """weight_map {tensor: file}, layers [number, ...] -> the set of files that hold their tensors.

    The names of layer 7 begin with "model.layers.7.".
    """
    beginnings = tuple(f"model.layers.{n}." for n in layers)
    return {file for name, file in weight_map.items() if name.startswith(beginnings)}


def leads_out(name):
    """A file's name as a hub lists it -> whether it may lead out of the folder.

    Refuse a part ".." wherever it stands, and names that begin at a root: "/x", "D:/x".
    Windows takes "\\" for "/".
    """
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or ":" in parts[0]


LAYERS = {
    "model.layers.1.mlp.up_proj.weight": "one",
    "model.layers.1.mlp.up_proj.weight_scale_inv": "two",
    "model.layers.10.mlp.up_proj.weight": "three",
    "model.layers.2.mlp.up_proj.weight": "two",
    "model.layers.61.eh_proj.weight": "four",
    "lm_head.weight": "five",
}

TRANSFERS = [
    Part(
        files_needed, "the files of some layers", 1, 10,
        "`str.startswith` takes a tuple of beginnings. Mind the dot: `model.layers.1` is also the beginning of layer "
        "10's names.",
        (
            Witness("a scale may lie in another file than its weight", lambda: (LAYERS, [1])),
            Witness("layer 1 is not layer 10", lambda: (LAYERS, [10])),
            Witness("several layers", lambda: (LAYERS, [2, 61])),
            Witness("no layer, no file", lambda: (LAYERS, [])),
            Witness("a layer that is not there", lambda: (LAYERS, [7])),
        ),
        (
            Fault("model.layers.{n}.", "model.layers.{n}", "layer 1 is taken for layer 10, too: the name goes on with a dot"),
            Fault("name.startswith(beginnings)", 'name.startswith(beginnings) and name.endswith(".weight")', "the scales are left out: they may lie in another file than their weights"),
            Fault("name.startswith(beginnings)", 'name.startswith((*beginnings, "lm_head"))', "only the layers' own files: the head was not asked for"),
            Fault("for n in layers", "for n in layers[:1]", "all layers count, not the first alone"),
        ),
    ),
    Part(
        leads_out, "names that a hub must not have", 2, 10,
        'Split the name at "/", after each "\\\\" has become one. Then look at the parts: ".." is dangerous, "a..b" is not.',
        (
            Witness("an ordinary name is fine", lambda: ("config.json",)),
            Witness("a file in a folder is fine", lambda: ("figures/benchmark.jpg",)),
            Witness("../ leads out", lambda: ("../../.bashrc",)),
            Witness(".. may stand in the middle", lambda: ("figures/../../.bashrc",)),
            Witness(".. at the end", lambda: ("figures/..",)),
            Witness("a name that begins with / is not in the folder", lambda: ("/x/y",)),
            Witness("two dots inside of a name are harmless", lambda: ("model..v2/notes..txt",)),
            Witness("Windows takes a backslash for a slash", lambda: ("..\\..\\autoexec.bat",)),
            Witness("a drive's letter is a root on Windows", lambda: ("D:/Windows/x",)),
            Witness("a backslash at the beginning is a root, too", lambda: ("\\Windows\\x",)),
        ),
        (
            Fault('name.replace("\\\\", "/")', "name", "Windows takes a backslash for a slash: split there, too"),
            Fault('".." in parts', '".." in name', "two dots inside of a name are harmless: look at whole parts"),
            Fault('".." in parts', 'parts[0] == ".."', ".. leads out wherever it stands, not only at the beginning"),
            Fault(' or parts[0] == ""', "", "a name that begins with a slash begins at the root"),
            Fault(' or ":" in parts[0]', "", "D: is a root on Windows"),
        ),
    ),
]  # fmt: skip
