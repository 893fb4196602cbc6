"""Writes checkpoints: header first, tensors one by one, and a final name only for what is whole."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .read import INDEX, ITEMSIZE

SIDE_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md")


@dataclass(frozen=True)
class Out:
    """A tensor to be written; ``data`` gives its bytes when its turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], bytes | bytearray | memoryview]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


class Folder:
    """A folder in the making: every file is written as ``*.part``, and ``finish`` gives all of them their names.

    A context manager; leaving it by an exception removes what was unfinished.

    Raises:
        FileExistsError: the folder holds safetensors that this run would not replace: two checkpoints would mix.
    """

    def __init__(self, path: Path, files: Iterable[str]):
        self.path, self.files = path, set(files)
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path}: exists and is not a folder")
        strangers = sorted(f.name for f in path.glob("*.safetensors") if f.name not in self.files)
        if strangers:
            raise FileExistsError(
                f"{path}: holds another checkpoint ({strangers[0]}); give an empty folder or remove it"
            )
        self.parts: list[str] = []

    def __enter__(self) -> "Folder":
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for name in self.parts:
                with suppress(FileNotFoundError):
                    self._part(name).unlink()

    def _part(self, name: str) -> Path:
        return self.path / f"{name}.part"

    def safetensors(self, name: str, tensors: list[Out]) -> None:
        """One safetensors file, in the order given."""
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for t in tensors:
            header[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
            at += t.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.parts.append(name)
        with self._part(name).open("wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for t in tensors:
                data = t.data()
                if len(data) != t.nbytes:
                    raise ValueError(f"{t.name}: {len(data)} bytes, expected {t.nbytes}")
                f.write(data)

    def text(self, name: str, content: str) -> None:
        self.parts.append(name)
        self._part(name).write_text(content, encoding="utf-8")

    def json(self, name: str, value: object) -> None:
        self.text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def index(self, where: dict[str, str], total: int) -> None:
        """The index: tensor name -> file name, and the bytes of all tensors."""
        self.json(INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})

    def copy_side_files(self, source: Path, skip: tuple[str, ...] = ()) -> None:
        """Config, generation config, tokenizer and chat template: what a checkpoint needs beside its tensors."""
        for file in sorted(source.glob("*")):
            wanted = file.name in SIDE_FILES or "token" in file.name or file.name.startswith("chat_template")
            if wanted and file.is_file() and file.suffix != ".safetensors" and file.name not in skip:
                self.copy(file)

    def copy(self, file: Path) -> None:
        self.parts.append(file.name)
        shutil.copyfile(file, self._part(file.name))

    def finish(self) -> None:
        """Everything gets its name; config.json last, so that a folder with one is whole."""
        for name in sorted(self.parts, key=lambda n: n == "config.json"):
            os.replace(self._part(name), self.path / name)


def check_separate(source: Path, target: Path) -> None:
    """
    Raises:
        ValueError: both are the same folder.
    """
    if source.resolve() == target.resolve():
        raise ValueError(f"{target}: the output folder is the input folder; give another")
