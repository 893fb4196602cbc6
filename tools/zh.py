"""The Chinese edition: what is missing in it, what is stale, and how it is made from the English lessons.

Cells have the English edition's ids, order and code. A translated cell, and each section of a translated document,
carries the hash of the English that it was made from.
"""

import ast
import copy
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dsv3.lab import mutants
from dsv3.lessons import lesson
from dsv3.said import chinese
from dsv3.sizing.offload import reports

ROOT = Path(__file__).parents[1]
LESSONS = ROOT / "notebooks"
ZH = LESSONS / "zh"
ARGUMENT = 'language="zh"'
DOCUMENTS = {  # the model card's stands beside tiny-r1's folder, which has DeepSeek's files and no others
    "README.md": "README.zh.md",
    "ENGINES.md": "ENGINES.zh.md",
    "GLOSSARY.md": "GLOSSARY.zh.md",
    "dsv3/assets/tiny-r1/README.md": "dsv3/assets/tiny-r1.zh.md",
}
MARK = re.compile(r"<!-- en ([0-9a-f]{12}) -->")
HEADING = re.compile(r"^#{1,3} ")

# What a lesson needs, in its metadata -> in Chinese.
FACTS = {
    "CPU": "CPU",
    "CPU; 2 GB of RAM, so AutoDL's no-GPU mode will do": "CPU；2 GB 内存就够，AutoDL 的无卡模式可用",
    "CPU; 2 cores are enough": "CPU；2 个核就够",
    "CPU; a GPU is looked at where there is one": "CPU；有 GPU 时会看一眼",
    "CPU; a GPU is used where there is one": "CPU；有 GPU 时会用上",
    "CPU; for R1 itself 8 GPUs of 96 GB or more": "CPU；部署 R1 本身要 8 块 96 GB 以上的 GPU",
    "CPU; the commands for two machines of 8 GPUs are shown": "CPU；两台 8 卡机器的命令只展示，不运行",
    "CPU; Triton needs Linux": "CPU；Triton 需要 Linux",
    "none": "不需要",
    "none, or 4.1 MB for one cell; the real download fetches 690 GB": (
        "不需要；有一个单元格可以下载 4.1 MB；真正的下载是 690 GB"
    ),
}

# Words that mark a machine's translation or another field's term -> what we write.
FORBIDDEN = {
    "令牌": "token",
    "词元": "token",
    "代币": "token",
    "标记器": "分词器",
    "升腾": "昇腾",
    "管道": "流水线",
    "排名": "rank",
    "您": "你",
    "内核函数": "核函数",
    "GPU 内存": "显存",
    "让我们": "",
    "请注意": "",
    "值得注意": "",
}
HAN = "\u4e00-\u9fff"
STYLE = {
    r"(?<![低满])秩": "秩: write rank for a process",
    rf"[{HAN}][,;:!?]|[,;!?][{HAN}]|[{HAN}]\(|\)[{HAN}]|[{HAN}]\.(?=\s|$)": "half-width punctuation beside Chinese",
    rf"[{HAN}][A-Za-z0-9]|[A-Za-z0-9%][{HAN}]": "no space between Chinese and Latin letters or digits",
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def prose(text: str) -> str:
    """Markdown without code, formulas, link targets and tags."""
    for pattern in (
        r"```.*?```",
        r"<!--.*?-->",
        r"\$\$.*?\$\$",
        r"(?<=\])\([^)\s]*\)",
        r"</?\w[^>]*>",
        r"https?://\S+",
    ):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    return re.sub(r"\$[^$\n]+\$", "", re.sub(r"`[^`\n]*`", "`", text))


def faults(text: str) -> list[str]:
    """What in a Chinese text is not in the house's Chinese, a line each."""
    plain = prose(text)
    found = [f"{word}: write {instead or 'nothing'}" for word, instead in FORBIDDEN.items() if word in plain]
    for pattern, says in STYLE.items():
        for m in re.finditer(pattern, plain):
            found.append(f"{says}: {plain[max(0, m.start() - 8) : m.end() + 8]!r}")
    return found


# --------------------------------------------------------------------------------------------------------- lessons


def opened(path: Path) -> NotebookNode:
    """A notebook.

    Raises:
        ValueError: the file is none.
    """
    try:
        return nbformat.read(path, 4)
    except nbformat.reader.NotJSONError:
        raise ValueError(f"{path}: not a notebook") from None


def with_language(source: str) -> str:
    """The preflight cell, with the language after the lesson's name."""
    return re.sub(r'(preflight\(\s*"\w+",)', rf"\1 {ARGUMENT},", source)


def by_hand(cell: NotebookNode) -> bool:
    """Whether a person translates it; the others are made."""
    return cell.cell_type == "markdown" and cell["id"] != "facts" and not cell["id"].endswith("-solution")


def edition(path: Path, english: NotebookNode, facts: str) -> NotebookNode:
    """The Chinese edition of a lesson: the English one's cells, with the translations and outputs that ``zh`` has.

    A cell without a translation keeps the English text, and carries no hash.

    Args:
        facts: the line below its title.
    """
    file = ZH / path.name
    old = {cell["id"]: cell for cell in opened(file).cells} if file.is_file() else {}
    notebook = copy.deepcopy(english)
    for cell in notebook.cells:
        before = old.get(cell["id"])
        if cell.cell_type == "code":
            if cell["id"] == "preflight":
                cell.source = with_language(cell.source)
            cell.outputs, cell.execution_count = [], None
            if before and before.source == cell.source:
                cell.outputs, cell.execution_count = before.outputs, before.execution_count
        elif cell["id"] == "facts":
            cell.source = facts
        elif by_hand(cell) and before and (made_from := _hash(before)):
            cell.source, cell.metadata["dsv3"] = before.source, {"en": made_from}
    return notebook


def solution(hint: str, source: str) -> str:
    """The folded cell below a stub."""
    return (
        f"<details><summary>提示</summary>\n\n{chinese().get(hint, hint)}\n\n</details>\n"
        f"<details><summary>参考实现</summary>\n\n```python\n{source}```\n\n</details>"
    )


def facts_line(of: dict) -> str:
    """The line below a lesson's title, from its ``metadata.dsv3``."""
    after, seen = of["after"], of.get("verified")
    parts = [
        f"{of['minutes']} 分钟",
        FACTS[of["hardware"]],
        f"内存 {of['ram_gb']:g} GB",
        f"磁盘 {of['disk_gb']:g} GB",
        f"网络：{FACTS[of['network']]}",
        f"先学第 {'、'.join(after)} 课" if after else "可以从这一课开始",
    ]
    if seen:
        versions = "、".join(f"{package} {number}" for package, number in seen["versions"].items())
        device = re.sub(r"(\d+) CPU cores", r"\1 个 CPU 核", seen["device"])
        parts.append(f"最近一次验证：{seen['date']}，{device}，{versions}")
    return " · ".join(parts)


def untranslated(path: Path) -> list[str]:
    """Ids of a lesson's cells that have no Chinese."""
    have = _hashes(path)
    return [cell["id"] for cell in opened(path).cells if by_hand(cell) and cell["id"] not in have]


def stale(path: Path) -> list[str]:
    """Ids of a lesson's cells whose English has changed since they were translated."""
    have = _hashes(path)
    cells = [cell for cell in opened(path).cells if by_hand(cell)]
    return [cell["id"] for cell in cells if have.get(cell["id"], digest(cell.source)) != digest(cell.source)]


def _hashes(path: Path) -> dict[str, str]:
    """Cell -> hash of the English that its Chinese was made from."""
    if not (ZH / path.name).is_file():
        return {}
    cells = opened(ZH / path.name).cells
    return {cell["id"]: _hash(cell) for cell in cells if _hash(cell)}


def _hash(cell: NotebookNode) -> str:
    return cell.metadata.get("dsv3", {}).get("en", "")


def done(path: Path, names: list[str]) -> list[str]:
    """Mark cells as translated from the English as it is now; if none is named, those that were in English before.

    Returns:
        Which were marked.

    Raises:
        ValueError: there is no such cell; it is still in English.
    """
    english = {cell["id"]: cell for cell in opened(path).cells if by_hand(cell)}
    notebook = opened(ZH / path.name)
    cells = {cell["id"]: cell for cell in notebook.cells if cell["id"] in english}
    new = [name for name in untranslated(path) if name in cells and cells[name].source != english[name].source]
    for name in names or new:
        if name not in english:
            raise ValueError(f"{path.stem} has no cell {name!r} to translate")
        if name not in cells:
            raise ValueError(f"{path.stem} has no cell {name!r} in Chinese yet: python -m tools.lessons zh write")
        if cells[name].source == english[name].source:
            raise ValueError(f"{path.stem}, cell {name}: it is still in English")
        cells[name].metadata["dsv3"] = {"en": digest(english[name].source)}
    nbformat.write(notebook, ZH / path.name)
    return names or new


# ------------------------------------------------------------------------------------------------------- documents


def sections(text: str) -> Iterator[tuple[str, str]]:
    """(heading, text) of each section of a Markdown document; headings in code are none."""
    heading, lines, fenced = "", list[str](), False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if HEADING.match(line) and not fenced:
            if heading or lines:
                yield heading, "\n".join(lines).strip()
            heading, lines = line, []
        else:
            lines.append(line)
    yield heading, "\n".join(lines).strip()


def stale_sections(document: str) -> list[str]:
    """English headings whose Chinese is missing, or was made from another text."""
    english = list(sections((ROOT / document).read_text(encoding="utf-8")))
    file = ROOT / DOCUMENTS[document]
    marks = [MARK.search(body) for _, body in sections(file.read_text(encoding="utf-8"))] if file.is_file() else []
    made_from = [mark[1] if mark else "" for mark in marks] + [""] * len(english)
    wrong = [h for (h, body), mark in zip(english, made_from, strict=False) if mark != digest(f"{h}\n{body}")]
    return wrong + (["(more sections than in English)"] if len(marks) > len(english) else [])


def done_document(document: str) -> None:
    """Mark every section of a translated document as made from the English as it is now.

    Raises:
        ValueError: the numbers of sections differ.
    """
    english = list(sections((ROOT / document).read_text(encoding="utf-8")))
    file = ROOT / DOCUMENTS[document]
    ours = list(sections(file.read_text(encoding="utf-8")))
    if len(ours) != len(english):
        raise ValueError(f"{file.name} has {len(ours)} sections, {document} {len(english)}")
    text = []
    for (heading, body), (en, en_body) in zip(ours, english, strict=True):
        mark = f"<!-- en {digest(f'{en}{chr(10)}{en_body}')} -->"
        text.append("\n".join(filter(None, [heading, mark, "", MARK.sub("", body).strip()])) + "\n")
    file.write_text("\n".join(text), encoding="utf-8")


# -------------------------------------------------------------------------------------------------------- messages


def messages() -> dict[str, set[str]]:
    """Module, as its table in ``dsv3/assets/zh/`` is named -> the sentences that it says in a lesson."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "dsv3").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT / "dsv3").with_suffix("").parts)
        found[name] = set(_said(ast.parse(file.read_text(encoding="utf-8"))))
    for number in lesson.LESSONS:
        found[f"lessons.lesson_{number}"] |= set(_of_parts(number))
    found["lessons.lesson"] |= set(lesson.LESSONS.values())
    found["lab.mutants"] |= {each.story for each in (*mutants.ATTENTION, *mutants.ROUTER, *mutants.KERNELS)}
    found["sizing.offload"] |= {report.machine for report in reports()}
    found["notebooks"] = {unit for path in sorted(LESSONS.glob("*.ipynb")) for unit in _units(path)}
    return {name: said for name, said in found.items() if said}


# Said with what ``messages`` knows as data (hints, titles, units, machines), or hands on (``said`` itself, ``wire``).
DATA = {"part.witnesses[first].hint", "fault.hint", "title", "unit", "r.machine", "template", "rest[0]"}


def _said(tree: ast.Module) -> Iterator[str]:
    """Templates of every ``Said(...)`` and ``say(language, ...)``: written there, or in the variable named there."""
    variables: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            variables.setdefault(node.targets[0].id, []).extend(_texts(node.value))
    for call in ast.walk(tree):
        name = ast.unparse(call.func).removeprefix("said.") if isinstance(call, ast.Call) else ""
        if isinstance(call, ast.Call) and name in ("Said", "say"):
            first = call.args[name == "say"]
            found = variables.get(first.id, []) if isinstance(first, ast.Name) else list(_texts(first))
            if not found and ast.unparse(first) not in DATA:
                raise ValueError(
                    f"line {call.lineno}: {ast.unparse(first)!r} is no literal, so nobody sees its Chinese"
                )
            yield from found


def _texts(node: ast.expr) -> Iterator[str]:
    """The text of a literal, or the two of a choice."""
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def _of_parts(number: str) -> Iterator[str]:
    for part in sum(lesson.parts_of(number), []):
        yield part.hint
        yield from (each.hint for each in (*part.witnesses, *part.faults))


def _units(path: Path) -> Iterator[str]:
    """The units of a lesson's guesses."""
    for cell in opened(path).cells:
        if cell.cell_type == "code" and "lesson.guess(" in cell.source:
            for call in ast.walk(ast.parse(cell.source)):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "lesson.guess":
                    yield from _texts(call.args[2])


def tables() -> dict[str, dict[str, str]]:
    """Module -> English -> Chinese, as committed."""
    files = sorted((ROOT / "dsv3" / "assets" / "zh").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def unsaid() -> Iterator[str]:
    """Messages without their Chinese, and Chinese that nobody says, a line each."""
    have = tables()
    for module, said in messages().items():
        yield from (f"{module}: {text!r} has no Chinese" for text in sorted(said - have.get(module, {}).keys()))
        yield from (f"{module}: {text!r} is not said" for text in sorted(have.get(module, {}).keys() - said))
