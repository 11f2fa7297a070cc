"""``python -m monai_passion.cli.tied WORDS PID``: a command that ends when the process that started it does."""

from __future__ import annotations

import sys

from monai_passion.cli import main
from monai_passion.system.parent import end_with

if __name__ == "__main__":
    end_with(int(sys.argv[-1]))
    raise SystemExit(main(sys.argv[1:-1]))
