"""Segmentation with missing MRI sequences: PASSION and its backbones for MONAI. Research use only.

The commands are functions of this package, as ``monai_passion.predict(flair="FLAIR.nii.gz", output="OUT")``; each is
imported when it is first used. See `monai_passion.commands`.
"""

from typing import Any

__version__ = "0.1.0"
NOTICE = "Research use only, not a medical device."


def __getattr__(name: str) -> Any:
    from monai_passion.commands import COMMANDS, find_module

    if name not in COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = find_module(name)
    return getattr(module, name, module)


def __dir__() -> list[str]:
    from monai_passion.commands import COMMANDS

    return sorted({*globals(), *COMMANDS})
