"""Write docs/images from phantoms: ``python docs/images.py BUILD CHROMIUM``; BUILD is a folder for what they show."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from monai_passion.bundle.weights import PHANTOM, shipped_weights
from monai_passion.system.files import write_atomically

IMAGES = Path(__file__).parent / "images"
LIMIT = 150_000
"""Bytes per picture."""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--hide-scrollbars",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--no-first-run",
    "--disable-background-networking",
    "--virtual-time-budget=60000",
]


def keep(source: Path, name: str) -> None:
    """Write a picture with a palette, smaller where it would be larger than `LIMIT`."""
    picture, content = Image.open(source).convert("RGB"), b""
    while not content or len(content) > LIMIT:
        if content:
            picture = picture.resize([round(0.9 * n) for n in picture.size], Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        content = buffer.getvalue()
    write_atomically(IMAGES / f"{name}.png", lambda path: path.write_bytes(content))
    print(f"{name}.png: {picture.width} x {picture.height}, {len(content) / 1000:.0f} kB")


def main(build: Path, chromium: str) -> None:
    """Make everything that is shown, then the pictures."""
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    weights = str(shipped_weights(PHANTOM))

    def passion(*words: str, fails: bool = False) -> None:
        done = subprocess.run([sys.executable, "-m", "monai_passion", *words], cwd=build)
        if bool(done.returncode) != fails:
            raise SystemExit(f"monai-passion {' '.join(words)} ended with {done.returncode}")

    def shoot(page: str, name: str, width: int, height: int) -> None:
        target = build / f"{name}.png"
        size = [f"--window-size={width},{height}", f"--user-data-dir={build / 'chromium'}", f"--screenshot={target}"]
        subprocess.run([chromium, *FLAGS, *size, (build / page).as_uri()], check=True, stderr=subprocess.DEVNULL)
        keep(target, name)

    passion("demo", "--output", "demo")
    keep(build / "demo/result/preview.png", "preview")
    shoot("demo/result/report.html", "page", 1120, 880)
    shoot("demo/result/report.html", "page-narrow", 500, 1000)

    passion("phantom", "brats", "patients", "--cases", "3", "--size", "48", "--seed", "1")
    (build / "patients/BraTS20_Training_002/BraTS20_Training_002_t1ce.nii.gz").unlink()
    for damaged in (build / "patients/BraTS20_Training_003").glob("*.nii.gz"):
        damaged.write_bytes(damaged.read_bytes()[:1000])
    passion("predict", "patients", "--weights", weights, "--output", "cohort", fails=True)
    shoot("cohort/index.html", "cohort", 1600, 480)

    passion("phantom", "brats", "labeled", "--cases", "3", "--size", "48", "--seed", "1")
    whole = str(shipped_weights("brats_mri_segmentation_rfnet_passion"))
    for label, file, more in (("whole heads", whole, ()), ("phantoms", weights, ("--set", "example=true"))):
        named = ("--bundle", "brats_mri_segmentation_rfnet_passion", "--label", f"weights of {label}")
        passion("evaluate", file, "--data", "labeled", *named, "--output", f"scores/{label}", *more)
    passion("report", "scores/whole heads", "scores/phantoms", "--output", "report")
    keep(build / "report/figures/example.png", "evaluation")
    shoot("report/report.html", "evaluation-report", 1400, 1000)

    for when, growth in (("earlier", "0"), ("later", "0.4")):
        passion("phantom", "brats", when, "--cases", "1", "--size", "80", "--seed", "1000", "--growth", growth)
    case = "BraTS20_Training_001"
    passion("compare", f"earlier/{case}", f"later/{case}", "--weights", weights, "--output", "compare")
    shoot("compare/comparison.html", "compare", 1120, 1000)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2])
