"""Answers to lesson 02's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "header": [
        ("a list for a tuple", "make it a tuple", """
def header(f):
    n, = struct.unpack("<Q", f.read(8))
    table = json.loads(f.read(n).decode())
    return {k: (v["dtype"], v["shape"], 8 + n + v["data_offsets"][0], 8 + n + v["data_offsets"][1])
            for k, v in table.items() if k != "__metadata__"}
import struct
"""),
        ("offsets as they stand", "not from the file's first byte", """
def header(f):
    n = int.from_bytes(f.read(8), "little")
    table = json.loads(f.read(n).decode())
    return {k: (v["dtype"], tuple(v["shape"]), *v["data_offsets"]) for k, v in table.items() if k != "__metadata__"}
"""),
        ("lists all the way", "returns a list, not a tuple", """
def header(f):
    n = int.from_bytes(f.read(8), "little")
    table = json.loads(f.read(n).decode())
    return {k: [v["dtype"], tuple(v["shape"]), *(8 + n + at for at in v["data_offsets"])]
            for k, v in table.items() if k != "__metadata__"}
"""),
        ("tensors one after the other, as listed", "any order", """
def header(f):
    n = int.from_bytes(f.read(8), "little")
    table, at, out = json.loads(f.read(n)), 8 + n, {}
    for k, v in table.items():
        if k != "__metadata__":
            size = v["data_offsets"][1] - v["data_offsets"][0]
            out[k] = (v["dtype"], tuple(v["shape"]), at, at + size)
            at += size
    return out
"""),
        ("spaces taken off", "spaces at the end", """
def header(f):
    n = int.from_bytes(f.read(8), "little")
    text = f.read(n).strip()
    table = json.loads(text)
    table.pop("__metadata__", None)
    begin = 8 + len(text)
    return {k: (v["dtype"], tuple(v["shape"]), *(begin + at for at in v["data_offsets"])) for k, v in table.items()}
"""),
        ("the whole file", "reads the whole file", """
def header(f):
    data = f.read()
    n = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + n])
    table.pop("__metadata__", None)
    return {k: (v["dtype"], tuple(v["shape"]), *(8 + n + at for at in v["data_offsets"])) for k, v in table.items()}
"""),
        ("no metadata expected to be absent", "one tensor|KeyError", """
def header(f):
    n = int.from_bytes(f.read(8), "little")
    table = json.loads(f.read(n))
    del table["__metadata__"]
    return {k: (v["dtype"], tuple(v["shape"]), *(8 + n + at for at in v["data_offsets"])) for k, v in table.items()}
"""),
    ],
    "misplaced": [
        ("names alone", "both missing and extra", """
def misplaced(weight_map, found):
    there = {name for names in found.values() for name in names}
    return set(weight_map) - there, there - set(weight_map)
"""),
        ("a file that is absent", "may be absent", """
def misplaced(weight_map, found):
    missing, extra = set(), set()
    for name, file in weight_map.items():
        if name not in found[file]:
            missing.add(name)
    for file in found:
        extra |= {name for name in found[file] if weight_map.get(name) != file}
    return missing, extra
"""),
        ("files, not tensors", "file is absent", """
def misplaced(weight_map, found):
    return set(weight_map.values()) - set(found), set(found) - set(weight_map.values())
"""),
        ("KeyError for a name that is not in the index", "does not name is extra|KeyError", """
def misplaced(weight_map, found):
    missing = {n for n in weight_map if n not in found.get(weight_map[n], [])}
    extra = {n for file in found for n in found[file] if weight_map[n] != file}
    return missing, extra
"""),
        ("lists", "returns a list, not a set", """
def misplaced(weight_map, found):
    missing = [n for n in weight_map if n not in found.get(weight_map[n], [])]
    extra = [n for file in found for n in found[file] if weight_map.get(n) != file]
    return missing, extra
"""),
    ],
    "stored": [
        ("divided, not rounded up", "128 x 128", """
def stored(dtype, shape):
    n = 1
    for side in shape:
        n *= side
    if dtype == "F8_E4M3":
        return n + n // 128 // 128 * 4
    return n * (2 if dtype == "BF16" else 4)
"""),
        ("a float", "128 x 128", """
def stored(dtype, shape):
    n = math.prod(shape)
    return n * {"BF16": 2, "F32": 4, "F8_E4M3": 1}[dtype] + (4 * n / 16384 if dtype == "F8_E4M3" else 0)
"""),
        ("a scale for each row of 128", "a row has no scales of its own", """
def stored(dtype, shape):
    size = {"BF16": 2, "F32": 4, "F8_E4M3": 1}[dtype] * math.prod(shape)
    if dtype == "F8_E4M3":
        rows, columns = shape
        size += rows * math.ceil(columns / 128) * 4
    return size
"""),
        ("scales for every type", "BF16 takes", """
def stored(dtype, shape):
    size = {"BF16": 2, "F32": 4, "F8_E4M3": 1}[dtype] * math.prod(shape)
    return size + 4 * math.prod(math.ceil(side / 128) for side in shape)
"""),
    ],
    "fetch": [
        ("begins anew each time", "only the rest is asked for", """
def fetch(get, f, size):
    tries = 0
    while f.seek(0, 2) < size:
        before = f.tell()
        f.seek(0)
        try:
            for piece in get({"Range": "bytes=0-"})[1]:
                f.write(piece)
        except OSError:
            pass
        tries = 0 if f.seek(0, 2) > before else tries + 1
        if tries >= 3:
            raise OSError("gave up")
"""),
        ("three tries in all", "is no failure|count of failures", """
def fetch(get, f, size):
    for attempt in range(4):
        done = f.seek(0, 2)
        if done >= size:
            return
        try:
            status, pieces = get({"Range": f"bytes={done}-{size - 1}"})
            if status == 200:
                f.seek(0)
                f.truncate()
            for piece in pieces:
                f.write(piece)
        except OSError:
            continue
    if f.seek(0, 2) < size:
        raise OSError("gave up")
"""),
        ("ignores the status", "stand there twice|status 200", """
def fetch(get, f, size):
    misses = 0
    while misses < 3:
        start = f.seek(0, 2)
        if start >= size:
            return
        try:
            for piece in get({"Range": "bytes=%d-" % start})[1]:
                f.write(piece)
        except OSError:
            pass
        misses = misses + 1 if f.tell() == start else 0
    raise OSError("no more")
"""),
        ("errors are let out", "catch the OSError|goes on|breaks", """
def fetch(get, f, size):
    at = f.seek(0, 2)
    while at < size:
        status, pieces = get({"Range": f"bytes={at}-"})
        if status == 200:
            f.seek(0)
            f.truncate()
        for piece in pieces:
            f.write(piece)
        at = f.tell()
"""),
        ("a quiet end is taken for the end", "until all bytes are there", """
def fetch(get, f, size):
    misses = 0
    while misses < 3:
        at = f.seek(0, 2)
        if at >= size:
            return
        try:
            status, pieces = get({"Range": f"bytes={at}-"})
            if status == 200:
                f.seek(0)
                f.truncate()
            for piece in pieces:
                f.write(piece)
            return
        except OSError:
            misses = 0 if f.tell() > at else misses + 1
    raise OSError("no")
"""),
        ("asks although all is there", "all is there", """
def fetch(get, f, size):
    misses = 0
    while True:
        at = f.seek(0, 2)
        try:
            status, pieces = get({"Range": f"bytes={at}-"})
            if status == 200:
                f.truncate(f.seek(0))
            for piece in pieces:
                f.write(piece)
        except OSError:
            pass
        if f.tell() >= size:
            return
        misses = 0 if f.tell() > at else misses + 1
        if misses == 3:
            raise OSError("no")
"""),
    ],
    "as_listed": [
        ("hashes everything", "look at the size first", """
def as_listed(f, size, sha256):
    seen, n = hashlib.sha256(), 0
    for piece in iter(lambda: f.read(65536), b""):
        seen.update(piece)
        n += len(piece)
    return n == size and seen.hexdigest() == sha256
"""),
        ("one read", "at once", """
def as_listed(f, size, sha256):
    if f.seek(0, 2) != size:
        return False
    f.seek(0)
    return hashlib.sha256(f.read()).hexdigest() == sha256
"""),
        ("size alone", "flipped bit", """
def as_listed(f, size, sha256):
    f.seek(0, 2)
    return f.tell() == size
"""),
        ("says nothing for the wrong size", "must not be read|nothing", """
def as_listed(f, size, sha256):
    if f.seek(0, 2) == size:
        f.seek(0)
        return hashlib.file_digest(f, "sha256").hexdigest() == sha256
"""),
        ("never goes back", "you hash nothing", """
def as_listed(f, size, sha256):
    if f.seek(0, 2) != size:
        return False
    return hashlib.file_digest(f, "sha256").hexdigest() == sha256
"""),
    ],
    "files_needed": [
        ("without the dot", "dot", """
def files_needed(weight_map, layers):
    return {f for name, f in weight_map.items() if any(name.startswith(f"model.layers.{n}") for n in layers)}
"""),
        ("the first file of each layer", "another file|StopIteration", """
def files_needed(weight_map, layers):
    return {next(f for name, f in weight_map.items() if name.startswith(f"model.layers.{n}.")) for n in layers}
"""),
        ("a list with repeats", "returns a list, not a set", """
def files_needed(weight_map, layers):
    return [f for name, f in weight_map.items() if name.split(".")[2:3] and name.split(".")[2] in map(str, layers)]
"""),
    ],
    "leads_out": [
        ("normalised first, so the middle passes", "stands|figures|middle|end", """
def leads_out(name):
    import posixpath
    return posixpath.normpath(name).startswith(("..", "/"))
"""),
        ("any two dots", "harmless", """
def leads_out(name):
    return ".." in name or name.startswith(("/", "\\\\")) or ":" in name
"""),
        ("only at the beginning", "not only at the beginning", """
def leads_out(name):
    name = name.replace("\\\\", "/")
    return name.startswith("../") or name.startswith("/") or name[1:2] == ":"
"""),
    ],
}  # fmt: skip

RIGHT = {
    "header": ["""
def header(f):
    (n,) = struct.unpack("<Q", f.read(8))
    return {name: (t["dtype"], tuple(t["shape"]), *(8 + n + at for at in t["data_offsets"]))
            for name, t in json.loads(f.read(n)).items() if name != "__metadata__"}
import struct
"""],
    "fetch": ["""
def fetch(get, f, size):
    left = 3
    while left:
        at = f.seek(0, 2)
        if at >= size:
            return
        left -= 1
        try:
            status, pieces = get({"Range": f"bytes={at}-{size - 1}"} if at else {})
            if status == 200:
                f.seek(0)
                f.truncate()
            for piece in pieces:
                f.write(piece)
                left = 3
        except OSError:
            pass
    raise OSError("gave up")
"""],
    "as_listed": ["""
def as_listed(f, size, sha256):
    f.seek(0, 2)
    if f.tell() != size:
        return False
    f.seek(0)
    return hashlib.file_digest(f, "sha256").hexdigest() == sha256
"""],
    "leads_out": ["""
def leads_out(name):
    from pathlib import PureWindowsPath
    path = PureWindowsPath(name)
    return bool(path.anchor) or ".." in path.parts
"""],
}  # fmt: skip
