"""Who may import whom in dsv3: only what stands on a lower floor; late imports count, those for types do not."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

DSV3 = Path(__file__).parents[2] / "dsv3"
# From the ground up. Names on one floor do not import each other; a folder is one name, its modules may.
FLOORS = """
    paths
    said
    outside
    cli quantized
    cache config explain kernels
    layout
    checkpoint cost ranks
    hubs runtime
    model sizing
    inference
    llm
    generate engines tiny
    fp8_cast_bf16 serve
    ask bf16_cast_fp8 compile convert doctor download gguf launch slice torchrun
    verify
    lab
    show
    plan lessons
    __init__
    __main__
"""
FLOOR = {name: height for height, names in enumerate(FLOORS.split("\n")) for name in names.split()}
MODULES = {".".join(f.relative_to(DSV3).with_suffix("").parts).removesuffix(".__init__"): f for f in DSV3.rglob("*.py")}


def imports(module: str) -> set[tuple[str, int]]:
    """The modules of dsv3 that ``module`` imports, each with its line."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    types = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    skipped = {id(inner) for block in types for outer in block.body for inner in ast.walk(outer)}
    here = ["dsv3", *MODULES[module].relative_to(DSV3).parent.parts]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names if alias.name != "__version__"]
        else:
            continue
        for name in names if id(node) not in skipped else ():
            if name.partition(".")[0] == "dsv3":
                inside = name.removeprefix("dsv3").removeprefix(".")
                while inside not in MODULES:  # a function of a module
                    inside = inside.rpartition(".")[0] or "__init__"
                found.add((inside, node.lineno))
    return found


def test_every_import_goes_down():
    assert {name.partition(".")[0] for name in MODULES} <= set(FLOOR), "a new module: give it a floor"
    wrong = []
    for module in MODULES:
        room = module.partition(".")[0]
        for other, line in imports(module):
            below = other.partition(".")[0]
            if below != room and FLOOR[below] >= FLOOR[room]:
                wrong.append(f"dsv3/{MODULES[module].relative_to(DSV3)}:{line}: {room} may not import {below}")
    assert not wrong, "\n".join(["imports that go up, or stay on a floor:", *sorted(wrong)])


def test_no_circle():
    graph = {module: {other for other, _ in imports(module) if other != module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
        lines = [
            f"dsv3/{MODULES[a].relative_to(DSV3)}:{line}: imports {b}"
            for b, a in zip(circle, circle[1:], strict=False)
            for other, line in imports(a)
            if other == b
        ]
        raise AssertionError("\n".join(["a circle:", *lines])) from None
