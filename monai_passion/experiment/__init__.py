"""Grids of trainings and evaluations, run cell by cell; `monai_passion.commands.experiments` has the commands."""
