"""Grids of trainings and evaluations, run cell by cell: the commands `run` and `status`."""

from monai_passion.experiments.commands import run, status

__all__ = ["run", "status"]
