"""What can go wrong that a person can put right, and the exit code each kind ends with.

Every message is one line: what is wrong, with which file or value, and what to do.
"""

from __future__ import annotations

__all__ = [
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_STRICT",
    "EXIT_TERMINATED",
    "InputError",
    "PassionError",
    "ResourceError",
    "UsageError",
    "WeightsError",
]

EXIT_OK = 0
EXIT_STRICT = 6
"""Finished, but with warnings while ``--strict`` was given."""
EXIT_INTERRUPTED = 130
"""Ctrl-C."""
EXIT_TERMINATED = 143
"""SIGTERM, as a cluster's scheduler sends it."""


class PassionError(Exception):
    """Base of the errors below; as it stands: an internal error."""

    exit_code = 1


class UsageError(PassionError):
    """The command line or a configuration asks for something that does not exist or cannot be."""

    exit_code = 2


class InputError(PassionError):
    """A file or a data set is not what it must be."""

    exit_code = 3


class WeightsError(PassionError):
    """Weights are missing, damaged, or belong to another network."""

    exit_code = 4


class ResourceError(PassionError):
    """Not enough memory or disk."""

    exit_code = 5
