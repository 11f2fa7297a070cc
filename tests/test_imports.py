"""Imports go one way, and starting up is quick."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import monai_passion

PACKAGE = Path(monai_passion.__file__).parent

LAYERS = {
    "errors": set(),
    "system": {"errors"},
    "tasks": {"errors", "system"},
    "modalities": {"errors", "tasks"},
    "data": {"errors", "modalities", "system", "tasks"},
    "transforms": {"data", "errors", "modalities", "system", "tasks"},
    "networks": {"errors", "system"},
    "losses": {"errors", "networks"},
    "handlers": {"errors", "losses", "networks", "system"},
    "inferers": {"errors", "networks"},
    "evaluation": {"errors", "modalities", "system", "tasks", "transforms"},
}
"""What each room may import; the rooms in order."""
for room in ("bundle", "prediction", "experiment"):
    LAYERS[room] = set(LAYERS) - {"prediction"}
for room in ("reporting", "monailabel_app", "commands", "cli"):
    LAYERS[room] = set(LAYERS)


def imported(part):
    paths = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").is_file() else (PACKAGE / part).rglob("*.py")
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = (
                    [node.module] if node.module != "monai_passion" else [f"monai_passion.{a.name}" for a in node.names]
                )
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                words = name.split(".")
                if (
                    words[0] == "monai_passion"
                    and len(words) > 1
                    and not words[1].isupper()
                    and words[1] != "__version__"
                ):
                    yield path, words[1]


@pytest.mark.parametrize("part", LAYERS)
def test_imports_go_one_way(part):
    wrong = {(path.name, name) for path, name in imported(part) if name not in LAYERS[part] | {part}}
    assert not wrong


def test_every_room_has_its_place_after_those_it_imports():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(LAYERS) == {room for room in rooms if not room.startswith("__")}
    table = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| Room |")[2]
    first_column = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
    assert re.findall(r"`(\w+)/?`", first_column) == [*LAYERS, "configs"]


def test_what_other_modules_import_is_in_all():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    names = {}
    for path, tree in trees.items():
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names[module] = set(ast.literal_eval(node.value))
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                known = names[node.module] | {
                    path.stem for path in PACKAGE.parent.joinpath(*node.module.split(".")).glob("*.py")
                }
                assert not {alias.name for alias in node.names} - known, (path, node.module)


@pytest.mark.parametrize("module", [f"monai_passion{part}" for part in ("", ".cli", ".commands", ".modalities")])
def test_starting_up_loads_neither_torch_nor_monai(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'monai', 'pandas'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


POSIX_ONLY = {"fcntl", "grp", "pwd", "resource", "termios"}


def test_no_module_needs_what_windows_lacks():
    """Such modules are imported in a `try`, or where they are used."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not POSIX_ONLY & set(names), path
