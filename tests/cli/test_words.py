"""What a command line means: of every command, and of made-up ones."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
from fire import docstrings

import monai_passion
from monai_passion.cli import main
from monai_passion.cli.help import help_text
from monai_passion.cli.words import convert, flags_of, read_words
from monai_passion.commands import COMMANDS, load_command
from monai_passion.errors import UsageError

PathLike = str | os.PathLike[str]


def every():
    for name in COMMANDS:
        found = load_command(name)
        yield from (
            {f"{name} {part}": f for part, f in found.items()}.items() if isinstance(found, dict) else [(name, found)]
        )


COMMAND = dict(every())


def made_up(
    first: str,
    rest: Sequence[PathLike] = (),
    *,
    output: PathLike | None = None,
    rate: float = 0.5,
    sizes: Sequence[int] | int | None = None,
    shares: tuple[float, float] = (0.5, 0.5),
    kind: Literal["one", "two"] = "one",
    set: Mapping[str, str] | None = None,
    page: bool = True,
    quiet: bool = False,
) -> None:
    """A command."""


def read(*words):
    kinds = {flag.name: flag for flag in flags_of(made_up)}
    given = read_words(made_up, words, "x")
    return {name: convert(kinds[name].kind, texts, name) for name, texts in given.items()}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["001"], {"first": "001"}),
        (["1e5"], {"first": "1e5"}),
        (["[1]"], {"first": "[1]"}),
        (["None"], {"first": "None"}),
        (["a", "b", "c"], {"first": "a", "rest": [Path("b"), Path("c")]}),
        (["a", "-o", "out"], {"first": "a", "output": Path("out")}),
        (["-i", "a"], {"first": "a"}),
        (["--output=a=b", "x"], {"first": "x", "output": Path("a=b")}),
        (["--sizes", "96x64x32", "x"], {"first": "x", "sizes": [96, 64, 32]}),
        (["--sizes", "96", "64", "x"], {"first": "x", "sizes": [96, 64]}),
        (["--shares", "0.1", "0.9", "x"], {"first": "x", "shares": [0.1, 0.9]}),
        (["--shares", "0.1,0.9", "x"], {"first": "x", "shares": [0.1, 0.9]}),
        (["--set", "a=1", "b=x=y", "x"], {"first": "x", "set": {"a": "1", "b": "x=y"}}),
        (["--set", "a=1", "--set", "b=2", "x"], {"first": "x", "set": {"a": "1", "b": "2"}}),
        (["--no-page", "--quiet", "x"], {"first": "x", "page": False, "quiet": True}),
        (["--rate", "-0.5", "x"], {"first": "x", "rate": -0.5}),
    ],
)
def test_text_stays_text_and_the_rest_has_its_type(words, values):
    assert read(*words) == values


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "FIRST must be given"),
        (["x", "--outptu", "y"], "unknown argument --outptu; did you mean --output?"),
        (["x", "-q"], "unknown argument -q"),
        (["x", "--output"], "--output needs a value"),
        (["x", "--output", "--quiet"], "--output needs a value"),
        (["x", "--rate", "much"], "--rate is much, not a number"),
        (["x", "--rate", "1", "--rate", "2"], "--rate is given twice (1, 2)"),
        (["x", "--kind", "tow"], "--kind is tow; choose one, two; did you mean two?"),
        (["x", "--shares", "1"], "--shares takes 2 values, not 1"),
        (["x", "--set", "a"], "--set needs KEY=VALUE, not a"),
        (["x", "--set", "a=1", "a=2"], "has a key twice"),
        (["x", "--quiet=maybe"], "--quiet takes no value"),
        (["x", "--no-quick"], "unknown argument --no-quick"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said):
    with pytest.raises(UsageError) as error:
        read(*words)
    assert said in str(error.value)
    assert "x --help" in str(error.value)


@pytest.mark.parametrize("name", COMMAND)
def test_every_command_refuses_a_mistyped_flag_before_it_runs(name, capsys):
    assert main([*name.split(), "--otput", "x"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("monai-passion: error: unknown argument --otput")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", COMMAND)
def test_the_help_of_every_command_begins_with_an_example_and_explains_every_flag(name):
    text = help_text(["monai-passion", *name.split()], COMMAND[name])
    assert f"Example:\n    monai-passion {name}" in "\n".join(text.splitlines()[:5])
    unexplained = [flag.name for flag in flags_of(COMMAND[name]) if not flag.about]
    assert all(name == "predict" and len(part) <= 9 for part in unexplained), unexplained  # aliases of sequences


def test_an_unknown_command_is_refused_with_a_suggestion(capsys):
    assert main(["predcit"]) == 2
    assert "unknown command predcit; did you mean predict?" in capsys.readouterr().err
    assert main(["bundles", "exprot"]) == 2
    assert "did you mean export?" in capsys.readouterr().err


def test_the_commands_are_functions_of_the_package():
    assert monai_passion.predict is load_command("predict")
    assert monai_passion.bundles.export is load_command("bundles")["export"]
    import_module("monai_passion.experiment.grid")  # a package named as the commands are would hide them
    assert monai_passion.experiments.run is load_command("experiments")["run"]
    assert {*COMMANDS} <= {*dir(monai_passion)}
    with pytest.raises(AttributeError, match="no attribute 'predcit'"):
        _ = monai_passion.predcit


def test_the_help_loads_nothing_heavy():
    code = "import sys; from monai_passion.cli import main; main(['predict', '--help']); main([])"
    code += "; sys.exit(str({'torch', 'monai', 'pandas', 'rich', 'nibabel', 'numpy'} & set(sys.modules) or '') or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tab_completes_flags_and_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "monai_passion", "--", "--completion"], capture_output=True, text=True, check=True
    )
    (tmp_path / "complete").write_text(done.stdout)
    ask = "source complete; COMP_WORDS=(monai-passion predict --all); COMP_CWORD=2; _complete-monai-passion"
    ask += '; echo "${COMPREPLY[@]}"; complete -p'
    told = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=False, cwd=tmp_path).stdout
    assert told.split()[:2] == ["--all-combinations", "--allow-duplicate"]
    assert "-o default" in told


@pytest.mark.parametrize("name", COMMAND)
def test_the_help_of_a_command_has_all_that_its_docstring_says_of_an_argument(name):
    """A line that goes on with a word and a colon would be taken for another argument."""
    told = docstrings.parse(inspect.getdoc(COMMAND[name]) or "").args or ()
    assert {arg.name for arg in told} <= set(inspect.signature(COMMAND[name]).parameters)


@pytest.mark.parametrize("words", [["", "-o", "x"], ["a", "--output", ""], ["a", "--output="], ["a", "b", ""]])
def test_an_empty_word_is_refused_as_it_would_be_this_folder(words):
    with pytest.raises(UsageError, match="is empty; give a value, or leave it out"):
        read(*words)
