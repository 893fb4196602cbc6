"""Plausible mistakes in lesson 02's exercises; each must be told apart from a right answer."""

HEAD = """
import json


def header(file):
    with file.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        described = json.loads(f.read(length))
"""

WRONG = {
    "ex1": [
        # offsets taken from the file's first byte
        HEAD
        + """
    described.pop("__metadata__", None)
    return {k: (t["dtype"], tuple(t["shape"]), *t["data_offsets"]) for k, t in described.items()}
""",
        # the eight bytes forgotten
        HEAD
        + """
    described.pop("__metadata__", None)
    tensors = described.items()
    return {k: (t["dtype"], tuple(t["shape"]), *(length + n for n in t["data_offsets"])) for k, t in tensors}
""",
        # metadata kept as if it were a tensor
        HEAD
        + """
    tensors = described.items()
    return {k: (t.get("dtype"), t.get("shape"), *t.get("data_offsets", (0, 0))) for k, t in tensors}
""",
        # the length read from the wrong end
        """
import json


def header(file):
    with file.open("rb") as f:
        length = int.from_bytes(f.read(8), "big")
        return json.loads(f.read(length))
""",
    ],
    "ex2": [
        # layer 1 is taken for layer 10, too
        """
def files_needed(weight_map, layers):
    return {f for name, f in weight_map.items() if any(name.startswith(f"model.layers.{n}") for n in layers)}
""",
        # the scales are forgotten
        """
def files_needed(weight_map, layers):
    wanted = tuple(f"model.layers.{n}." for n in layers)
    return {f for name, f in weight_map.items() if name.startswith(wanted) and name.endswith(".weight")}
""",
        # only the first file of each layer
        """
def files_needed(weight_map, layers):
    return {next(f for name, f in weight_map.items() if name.startswith(f"model.layers.{n}.")) for n in layers}
""",
    ],
    "ex3": [
        # sizes only
        """
def broken(listed, folder):
    return {
        name
        for name, (nbytes, _) in listed.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != nbytes
    }
""",
        # a missing file is not told
        """
import hashlib


def broken(listed, folder):
    found = set()
    for name, (_, sha256) in listed.items():
        file = folder / name
        if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            found.add(name)
    return found
""",
        # every file of the folder, listed or not
        """
import hashlib


def broken(listed, folder):
    known = {sha256 for _, sha256 in listed.values()}
    names = {f.name for f in folder.iterdir() if hashlib.sha256(f.read_bytes()).hexdigest() not in known}
    return names | {name for name in listed if not (folder / name).exists()}
""",
    ],
}
