"""The command line ``monai-passion``: one module a command, imported only when its command runs.

Each module has ``add_arguments(parser)`` and ``run(args) -> int``, the exit code.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from monai_passion import NOTICE, __version__
from monai_passion.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, PassionError, ResourceError, is_out_of_memory

__all__ = ["COMMANDS", "NOTICE", "main"]

COMMANDS = {
    "phantom": "write a cohort of digital phantoms in the BraTS2020 or MyoPS2020 folder layout",
    "datalist": "turn a folder of patients into a datalist JSON, split by patient",
    "presence": "draw or read which patient lacks which modality",
    "predict": "segment one patient from whatever sequences there are",
    "info": "list the bundles, their sequences and labels",
    "bundles": "make the bundles from the fragments in configs/, check them, or export one",
    "experiments": "run a grid of trainings and evaluations, and say how far it is",
    "report": "make tables and figures from the results of a training",
    "convert": "turn weights of the released PASSION code into weights of this package",
}
"""Command -> one line for the help. The module has the command's name."""


class Parser(argparse.ArgumentParser):
    """Errors in one line, exit code 2, with a suggestion for a mistyped flag."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flags = [flag for action in self._actions for flag in action.option_strings]
            nearest = difflib.get_close_matches(unknown.split()[0].split("=")[0], flags, n=1)
            message = f"unknown argument {unknown}" + (f"; did you mean {nearest[0]}?" if nearest else "")
        print(f"{self.prog}: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="monai-passion", description=f"Segmentation of MRI with missing sequences. {NOTICE}")
    parser.add_argument("--version", action="version", version=f"monai_passion {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    wanted = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary}. {NOTICE}", allow_abbrev=False)
        if name == wanted:
            sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
            sub.set_defaults(module=importlib.import_module(f"monai_passion.cli.{name}"), parser=sub)
            sub.get_default("module").add_arguments(sub)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `monai_passion.errors` for what each means."""
    args = _parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _terminate)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        return int(args.module.run(args))
    except PassionError as error:
        if args.debug:
            raise
        print(f"monai-passion: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("monai-passion: interrupted; nothing half-written was left", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if args.debug:
            raise
        if is_out_of_memory(error):
            print(
                "monai-passion: error: not enough memory; close other programs or use smaller images", file=sys.stderr
            )
            return ResourceError.exit_code
        print(
            f"monai-passion: internal error: {type(error).__name__}: {error}; run again with --debug", file=sys.stderr
        )
        return 1
