"""The lessons' tool: run them and keep their outputs, compare a fresh run with what is committed, export them.

python -m tools.lessons write [NAME ...]      # stubs, hints and solutions into their cells, and notebooks/parts.md
python -m tools.lessons run [NAME ...]        # from a clean kernel; writes the outputs into notebooks/
python -m tools.lessons compare FOLDER        # the notebooks that a test run wrote there, against notebooks/
python -m tools.lessons export html|slides --output-dir DIR
python -m tools.lessons zh write [NAME ...]   # the Chinese edition: code, stubs, solutions; translations stay
python -m tools.lessons zh new|stale          # what has no Chinese yet; whose English has changed
python -m tools.lessons zh done NAME [CELL ...]  # translated from the English as it is now; a document: README.md
python -m tools.lessons zh run [NAME ...]     # as run, for the Chinese edition
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dsv3.checkpoint import ours
from dsv3.lessons.lesson import parts_of
from dsv3.paths import write_result

from . import zh

ROOT = Path(__file__).parents[1]
LESSONS = ROOT / "notebooks"
MARK = ".made-by-export"  # what an export has made carries this file
TABLE = """# What the learner writes

Made by `python -m tools.lessons write`. Each part is checked on inputs on which plausible errors show. Each known error
is caught on them, and named; so is each wrong answer that was written without a look at the known errors."""
VIEW = "application/vnd.jupyter.widget-view+json"


def paths(names: list[str] | None = None, folder: Path = LESSONS) -> list[Path]:
    """The named lessons' files, or all, in order.

    Raises:
        ValueError: there is no such lesson.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        return found
    for name in names:
        if not any(path.stem == name for path in found):
            raise ValueError(f"no lesson {name!r}; there are {', '.join(path.stem for path in found)}")
    return [path for path in found if path.stem in names]


def facts(of: dict) -> str:
    """The line below a lesson's title, from its ``metadata.dsv3``."""
    after = of["after"]
    seen = of.get("verified")
    parts = [
        f"{of['minutes']} minutes",
        of["hardware"],
        f"{of['ram_gb']:g} GB of RAM",
        f"{of['disk_gb']:g} GB of disk",
        f"network: {of['network']}",
        f"after lesson{'s' if len(after) > 1 else ''} {', '.join(after)}" if after else "no lesson needed before",
    ]
    if seen:
        versions = ", ".join(f"{package} {number}" for package, number in seen["versions"].items())
        parts.append(f"last verified {seen['date']} on {seen['device']} with {versions}")
    return " · ".join(parts)


def filled(path: Path, solved: int = 0) -> NotebookNode:
    """A lesson with its stubs and solutions as its module has them, the first ``solved`` stubs solved.

    The cells are ``NAME-stub`` and ``NAME-solution`` of each part.

    Raises:
        ValueError: a cell is missing.
    """
    notebook = nbformat.read(path, 4)
    cells = {cell["id"]: cell for cell in notebook.cells}
    parts, transfers = parts_of(path.stem[:2])
    for i, part in enumerate([*parts, *transfers]):
        stub, solution = f"{part.name}-stub", f"{part.name}-solution"
        if missing := {stub, solution} - cells.keys():
            raise ValueError(f"{path.name}: no cell {', '.join(sorted(missing))}")
        cells[stub].source = f"@lesson.check\n{part.source.rstrip()}" if i < solved else part.stub()
        cells[solution].source = (
            f"<details><summary>Hint</summary>\n\n{part.hint}\n\n</details>\n"
            f"<details><summary>Solution</summary>\n\n```python\n{part.source}```\n\n</details>"
        )
    return notebook


def in_chinese(path: Path, solved: int = 0) -> NotebookNode:
    """The Chinese edition of a lesson, as it should be; the first ``solved`` stubs solved."""
    english = filled(path, solved)
    notebook = zh.edition(path, english, zh.facts_line(english.metadata["dsv3"]))
    cells = {cell["id"]: cell for cell in notebook.cells}
    for part in sum(parts_of(path.stem[:2]), []):
        cells[f"{part.name}-solution"].source = zh.solution(part.hint, part.source)
    return notebook


def table() -> str:
    """The course's parts: what each lesson builds, and how much its checks catch."""
    rows = []
    for path in paths():
        written = importlib.import_module(f"tests.lessons.wrong_answers.lesson_{path.stem[:2]}").WRONG
        for part in sum(parts_of(path.stem[:2]), []):
            stars = "★" * part.stars + "☆" * (3 - part.stars)
            numbers = f"{part.lines} | {len(part.witnesses)} | {len(part.faults)} | {len(written[part.name])}"
            rows.append(f"| {path.stem[:2]} | `{part.name}` | {part.what} | {stars} | {part.minutes} | {numbers} |")
    columns = (
        "lesson",
        "part",
        "what it is",
        "difficulty",
        "minutes",
        "lines",
        "inputs",
        "known errors",
        "wrong answers",
    )
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([TABLE, "", *head, *rows, ""])


def run(path: Path) -> float:
    """Execute a lesson from a clean kernel, in an empty home folder; write its outputs; return the seconds it took.

    One of the Chinese edition keeps its cell of facts: ``zh write`` makes it.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, 4)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DSV3_", "XDG_"))}
        env |= {"HOME": home, "DSV3_MINE": f"{home}/mine"}
        resources = {"metadata": {"path": path.parent}}
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
        client.execute(env=env)
        seconds = time.perf_counter() - begin
        for cell in notebook.cells:
            clean(cell, home)
    versions = {"Python": sys.version.split()[0], "torch": version("torch")}
    device = f"{os.cpu_count()} CPU cores"
    notebook.metadata["dsv3"]["verified"] = {"date": str(date.today()), "device": device, "versions": versions}
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell["id"] == "facts" and path.parent == LESSONS:
            cell.source = facts(notebook.metadata["dsv3"])
    nbformat.write(notebook, path)
    return seconds


def clean(cell: NotebookNode, home: str = "~") -> None:
    """Drop from a cell what would differ with every run (``home``, too), and widgets, which no git host can draw."""
    cell.metadata.pop("execution", None)
    if cell.cell_type != "code":
        return
    outputs, cell.outputs = cell.outputs, []
    for output in outputs:
        last = cell.outputs[-1] if cell.outputs else {}
        if "name" in output and output.name == last.get("name"):  # where a stream is cut depends on the moment
            last["text"] += output.text
        elif VIEW not in output.get("data", {}):
            cell.outputs.append(output)
    for output in cell.outputs:
        if "text" in output:
            output["text"] = output["text"].replace(home, "~")


def shape(notebook: NotebookNode) -> Iterator[tuple[str, str, tuple]]:
    """Each cell's id, source and the kinds of its outputs: what must not change unless someone changed the lesson."""
    for cell in notebook.cells:
        clean(cell)
        kinds = ((o.output_type, o.get("name", ""), *sorted(o.get("data", {}))) for o in cell.get("outputs", []))
        yield cell["id"], cell.source, tuple(kinds)


def compare(folder: Path) -> list[str]:
    """What differs between the lessons' committed outputs and those of a run in ``folder``, a line each."""
    found = []
    for path in [*paths(), *paths(folder=zh.ZH)]:
        committed, fresh = nbformat.read(path, 4), nbformat.read(folder / path.relative_to(LESSONS), 4)
        for (name, source, old), (_, _, new) in zip(shape(committed), shape(fresh), strict=True):
            if old != new:
                where = f"{path.relative_to(LESSONS).with_suffix('')}, cell {name}"
                found.append(f"{where}: committed {old}, a fresh run gives {new} ({source[:40]!r})")
    return found


def export(kind: str, folder: Path) -> list[Path]:
    """Every lesson as a page (``"html"``) or as an instructor's deck (``"slides"``), one file each; Chinese in ``zh/``.

    Raises:
        FileExistsError: ``folder`` holds what no export made.
    """
    from nbconvert.exporters import HTMLExporter, SlidesExporter

    exporter = {"html": HTMLExporter, "slides": SlidesExporter}[kind]()
    folder.mkdir(parents=True, exist_ok=True)
    if not ours.is_plain(folder / MARK):
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder}: holds what no export made; give a new folder")
        os.close(ours.create(folder / MARK, False))
    written = []
    (folder / zh.ZH.name).mkdir(exist_ok=True)
    for path in [*paths(), *paths(folder=zh.ZH)]:
        body, _ = exporter.from_filename(str(path))
        target = folder / path.relative_to(LESSONS).with_suffix(".html" if kind == "html" else ".slides.html")
        write_result(target, body.encode(), lambda data: data.startswith(b"<!DOCTYPE html>"))
        written.append(target)
    return written


def translated(what: str, names: list[str]) -> None:
    """What ``zh`` does.

    Raises:
        ValueError: there is no such lesson or cell; ``done`` without a name.
    """
    if what == "done":
        if not names:
            raise ValueError(f"zh done: which lesson, or which of {', '.join(zh.DOCUMENTS)}?")
        if names[0] in zh.DOCUMENTS and len(names) > 1:
            raise ValueError(f"zh done: {names[0]} has no cells; name one document")
        if names[0] in zh.DOCUMENTS:
            zh.done_document(names[0])
        else:
            marked = zh.done(paths(names[:1])[0], names[1:])
            print(f"marked: {', '.join(marked) or 'none was new; name a cell that is stale'}")
        return
    documents = {} if names else {document: zh.stale_sections(document) for document in zh.DOCUMENTS}
    for path in paths(names):
        if what == "write":
            zh.ZH.mkdir(exist_ok=True)
            nbformat.write(in_chinese(path), zh.ZH / path.name)
        elif what == "run":
            print(f"zh/{path.stem:28}{run(zh.ZH / path.name):6.1f} s", flush=True)
        else:
            documents[path.stem] = zh.untranslated(path) if what == "new" else zh.stale(path)
    if what in ("new", "stale"):
        for name, found in documents.items():
            for each in found:
                print(f"{name}: {each}")


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="lessons", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("write", "run"):
        verbs.add_parser(verb).add_argument("names", nargs="*", metavar="NAME")
    verbs.add_parser("compare").add_argument("folder", type=Path)
    chinese = verbs.add_parser("zh")
    chinese.add_argument("what", choices=("write", "new", "stale", "done", "run"))
    chinese.add_argument("names", nargs="*", metavar="NAME")
    exporting = verbs.add_parser("export")
    exporting.add_argument("kind", choices=("html", "slides"))
    exporting.add_argument("--output-dir", type=ours.path, required=True)
    args = parser.parse_args(argv)
    if args.verb == "run":
        for path in paths(args.names):
            print(f"{path.stem:28}{run(path):6.1f} s", flush=True)
    elif args.verb == "zh":
        translated(args.what, args.names)
    elif args.verb == "write":
        for path in paths(args.names):
            nbformat.write(filled(path), path)
        (LESSONS / "parts.md").write_text(table(), encoding="utf-8")
    elif args.verb == "export":
        for path in export(args.kind, args.output_dir):
            print(path)
    elif found := compare(args.folder):
        raise ValueError(f"{len(found)} outputs are stale; python -m tools.lessons run\n" + "\n".join(found))


if __name__ == "__main__":
    from dsv3.cli import run as run_verb

    run_verb(main)
