"""Grids of trainings: one small JSON, many runs, each in a folder of its own that survives any interruption."""
