"""Puts ``configs/`` and ``bundles/``, which lie beside the package, into it when it is built; the rest is setup.cfg."""

from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
BESIDE = ("configs", "bundles")
LEFT_OUT = {"models", "eval", "__pycache__"}


class BuildWithBundles(build_py):
    """As always, and what `monai_passion.system.resources.resource_folder` finds; an editable one finds it here."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        files = {path.relative_to(HERE): path for folder in BESIDE for path in (HERE / folder).rglob("*")}
        files[Path("configs", "LICENSE")] = HERE / "LICENSE"
        for relative, path in files.items():
            if path.is_file() and not LEFT_OUT & set(relative.parts):
                target = Path(self.build_lib, "monai_passion", relative)
                target.parent.mkdir(parents=True, exist_ok=True)
                copyfile(path, target)


setup(cmdclass={"build_py": BuildWithBundles})
