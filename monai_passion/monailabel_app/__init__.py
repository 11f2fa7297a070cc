"""MONAI Label with patients of several files, any of which may be missing; this folder is the app, see `main.py`."""
