"""Protects the structure of the package: imports point one way, without a circle (docs/design.md)."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_spam"
# From the top down; a room may import from rooms below it and from itself.
ROOMS = ("experiments", "training", "evaluation", "hub", "inference", "conversion", "data", "modeling")
BOTTOM = ("extras", "files", "hub_errors", "memory", "signals", "text")  # modules that import no room


def imports(path: Path) -> set[str]:
    """Return the modules of the package that a module imports anywhere, such as `data.labels`."""
    package = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for name in [node.module and ".".join(base), *(".".join([*base, alias.name]) for alias in node.names)]:
                if name and (PACKAGE / f"{name.replace('.', '/')}.py").is_file():
                    found.add(name)
    return found


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py")
}


def level(module: str) -> int:
    room = module.split(".")[0]
    return ROOMS.index(room) if room in ROOMS else len(ROOMS) if room in BOTTOM else -1


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_only_from_below(module):
    """Also inside functions. Code that travels to the Hub imports nothing from outside its folder."""
    for other in imports(MODULES[module]):
        assert level(other) >= level(module), f"{module} imports {other}, which lies above it"
        assert not module.startswith("modeling.") or other.startswith("modeling."), other
        assert module not in BOTTOM or other in BOTTOM, f"{module} lies below all rooms, but imports {other}"


def test_no_import_cycles():
    graph = {module: imports(path) for module, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # raises CycleError otherwise
