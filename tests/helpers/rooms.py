"""``python -m tests.helpers.rooms [PACKAGE]``: lines, rooms, arrows between them, circles."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; a room's ``__init__`` has the room's name."""
    found = {path.relative_to(package).with_suffix("").parts: path for path in sorted(package.rglob("*.py"))}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for parts, path in found.items()}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, also inside of functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            below = name.split(".")[1:] if name.startswith("monai_passion.") else []
            while below and ".".join(below) not in known:
                below.pop()
            if below:
                yield ".".join(below)


def has_circle(arrows: dict[str, set[str]]) -> bool:
    """Whether somebody imports itself by way of others."""
    try:
        TopologicalSorter({one: others - {one} for one, others in arrows.items()}).prepare()
    except CycleError:
        return True
    return False


def main() -> None:
    package = Path(sys.argv[1] if len(sys.argv) > 1 else "monai_passion")
    known = modules(package)
    between = {name: set(imports(path, known)) for name, path in known.items()}
    rooms: dict[str, set[str]] = {}
    for name, others in between.items():
        rooms.setdefault(name.split(".")[0], set()).update(other.split(".")[0] for other in others)
    rooms = {room: others - {room} for room, others in rooms.items() if room}
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in known.values())
    print(f"{lines} lines, {len(known)} modules, {len(rooms)} rooms, {sum(map(len, rooms.values()))} arrows")
    print(f"a circle between rooms: {has_circle(rooms)}, between modules: {has_circle(between)}")


if __name__ == "__main__":
    main()
