"""``python -m monai_passion`` is ``monai-passion``."""

from monai_passion.cli import main

raise SystemExit(main())
