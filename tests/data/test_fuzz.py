"""Headers that nobody would write: whatever stands in them, `predict`'s input path reads the file or says why not."""

import gzip
import io
import time
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monai_passion.data.patient import read_patient
from monai_passion.data.plausibility import check_images
from monai_passion.errors import PassionError
from monai_passion.tasks import load_task
from tests.helpers.tasks import BRATS_MRI

MAX_VOXELS = 10_000
SHAPE = (9, 8, 7)
BYTES_A_VOXEL = 64
"""Of all that is made of a volume of ``MAX_VOXELS``, at the worst moment; a header may claim 35 TB."""
SECONDS = 20
FIELDS = {name: nib.Nifti1Header.template_dtype[name] for name in nib.Nifti1Header.template_dtype.names}


def valid(kind):
    data = np.random.default_rng(0).integers(100, 999, SHAPE).astype(np.int16)
    data[:2] = 0
    return kind(data, np.diag([1.0, 1.0, 2.0, 1.0])).to_bytes()


NIFTI = {1: valid(nib.Nifti1Image), 2: valid(nib.Nifti2Image)}
numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 2, 3, 4, 7, 8, 9, 16, 32767, -32768, 2**31 - 1, 352, 512, 1792, 2304]),
    st.floats(width=32, allow_nan=True, allow_infinity=True),
)


@st.composite
def spoilt_fields(draw):
    """A NIfTI-1 file with some fields of its header set to anything."""
    header = nib.Nifti1Header(NIFTI[1][:348], check=False)
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4, unique=True)):
        kind, shape = FIELDS[name].base, FIELDS[name].shape
        if kind.kind == "S":
            header[name] = draw(st.binary(max_size=kind.itemsize))
            continue
        values = draw(st.lists(numbers, min_size=max(int(np.prod(shape)), 1), max_size=max(int(np.prod(shape)), 1)))
        with np.errstate(all="ignore"):
            spoilt = [cast(value, kind) for value in values]
        header[name] = np.array(spoilt, kind).reshape(shape)
    return header.binaryblock + NIFTI[1][348:]


def cast(value, kind):
    if kind.kind == "f":
        return value
    if not np.isfinite(value):
        return 0
    limits = np.iinfo(kind)
    return int(min(max(value, limits.min), limits.max))


@st.composite
def spoilt_bytes(draw):
    """Either kind of file with bytes changed anywhere in its header, the rest perhaps cut."""
    content = bytearray(NIFTI[draw(st.sampled_from([1, 2]))])
    for place in draw(st.lists(st.integers(0, 543), min_size=1, max_size=12)):
        content[place] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])


@st.composite
def files(draw):
    content = draw(st.one_of(spoilt_fields(), spoilt_bytes()))
    if not draw(st.booleans()):
        return content
    packed = bytearray(gzip.compress(content, 1))
    for place in draw(st.lists(st.integers(0, len(packed) - 1), max_size=2)):
        packed[place] ^= draw(st.integers(1, 255))
    return bytes(packed)


def judge(content, folder):
    path = folder / "flair.nii.gz"
    path.write_bytes(content)
    refusal = None
    tracemalloc.start()
    began = time.monotonic()
    try:
        with np.errstate(all="ignore"):
            patient = read_patient({"flair": path}, BRATS_MRI, max_voxels=MAX_VOXELS)
            check_images(patient.used, load_task("brats_mri"))
        assert np.isfinite(patient.reference.data).all()
        assert np.isfinite(patient.reference.affine).all()
        assert patient.reference.data.size <= MAX_VOXELS
    except PassionError as error:
        refusal = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if refusal is not None:
        assert refusal.exit_code == 3
        assert "\n" not in str(refusal)
        assert str(path) in str(refusal)
    assert peak < BYTES_A_VOXEL * MAX_VOXELS + 8 * 2**20, f"{peak} bytes"
    assert time.monotonic() - began < SECONDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


checks = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(files())
@settings(max_examples=200, deadline=None, suppress_health_check=checks, derandomize=True)
def test_any_header_is_read_or_refused_in_one_line_within_the_announced_memory(folder, content):
    judge(content, folder)


@pytest.mark.slow
@given(files())
@settings(max_examples=10_000, deadline=None, suppress_health_check=checks)
def test_ten_thousand_more_headers(folder, content):
    judge(content, folder)


def test_a_small_file_that_unpacks_to_more_than_its_header_says_is_not_unpacked(folder):
    """128 MB of zeros behind a good header, in less than 1 MB."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        file.write(NIFTI[1])
        for _ in range(32):
            file.write(bytes(4 * 2**20))
    judge(packed.getvalue(), folder)
