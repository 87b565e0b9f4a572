"""Which part of the suite may import which."""

import ast
from pathlib import Path

import training

ROOT = Path(training.__file__).parent

LAYERS = ("models", "methods", "data", "storage", "loop", "compare")
"""Packages from the bottom to the top; each may import those before it."""


def imported(file: Path) -> set[str]:
    """The modules of the suite that a file imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("training.")}


def modules() -> dict[str, set[str]]:
    """What each module of the suite imports of it."""
    files = {
        ".".join(("training", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
        for file in ROOT.rglob("*.py")
    }
    return {name: {other for other in imported(file) if other in files} for name, file in files.items()}


def layer(module: str) -> int | None:
    """The place of its package, None for the modules that are in none."""
    package = module.split(".")[1] if "." in module else ""
    return LAYERS.index(package) if package in LAYERS else None


def test_no_package_imports_one_above_it() -> None:
    found = []
    for name, others in modules().items():
        own = layer(name)
        for other in others:
            above = layer(other)
            if own is not None and above is not None and own < above:
                found.append(f"{name} imports {other}")
    assert found == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = modules()
    while free := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in free:
            del imports[name]
    assert sorted(imports) == []
