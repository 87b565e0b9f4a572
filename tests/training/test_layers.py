"""Imports within ``training``: no package imports one above it, and no imports are circular."""

import ast
from pathlib import Path

import training

ROOT = Path(training.__file__).parent

LAYERS = ("models", "methods", "data", "storage", "loop", "compare")
"""Packages from the bottom to the top; each may import those before it."""


def imported(file: Path) -> set[str]:
    """The modules of ``training`` that a file imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("training.")}


def modules() -> dict[str, set[str]]:
    """The modules of ``training`` that each of them imports."""
    files = {
        ".".join(("training", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
        for file in ROOT.rglob("*.py")
    }
    return {name: {other for other in imported(file) if other in files} for name, file in files.items()}


def layer(module: str) -> int | None:
    """The place of the module's package in ``LAYERS``; None for a module outside them."""
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


def test_no_imports_are_circular() -> None:
    imports = modules()
    while free := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in free:
            del imports[name]
    assert sorted(imports) == []
