import gzip
import io
import os
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_passion.data.nifti import Volume, read_header, read_volume, read_volumes, same_grid
from monai_passion.errors import InputError
from monai_passion.prediction.output.images import write_labels

DATA = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) + 1
AFFINE = np.diag([1.0, 1.5, 3.0, 1.0])


def nifti_bytes(data=DATA, affine=AFFINE, edit=None, kind=nib.Nifti1Image) -> bytes:
    image = kind(data, affine)
    stream = io.BytesIO()
    image.to_file_map({"image": nib.FileHolder(fileobj=stream)})
    content = bytearray(stream.getvalue())
    if edit is not None:
        edit(content)
    return bytes(content)


def put(offset, form, *values):
    return lambda content: struct.pack_into("<" + form, content, offset, *values)


def both(*edits):
    return lambda content: [edit(content) for edit in edits]


def no_form(content):
    struct.pack_into("<hh", content, 252, 0, 0)


def voxels(value, count):
    data = DATA.astype(np.float32)
    data.flat[:count] = value
    return nifti_bytes(data)


RGB = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])

BAD = {
    "empty": b"",
    "text": b"<html>not found</html>" * 50,
    "short text": b"no",
    "packed text": gzip.compress(b"nothing here" * 100),
    "cut gzip header": gzip.compress(nifti_bytes())[:30],
    "cut gzip": gzip.compress(nifti_bytes(np.random.default_rng(0).integers(0, 9999, (20, 20, 20), dtype=np.int16)))[
        :-900
    ],
    "damaged gzip": gzip.compress(nifti_bytes())[:-8] + b"\0\0\0\0" + gzip.compress(nifti_bytes())[-4:],
    "cut raw": nifti_bytes()[:-20],
    "header only": nifti_bytes()[:352],
    "zero dimension": nifti_bytes(edit=put(42, "h", 0)),
    "negative dimension": nifti_bytes(edit=put(42, "h", -4)),
    "eight dimensions": nifti_bytes(edit=put(40, "h", 8)),
    "2-D": nifti_bytes(DATA[0]),
    "4-D": nifti_bytes(np.stack([DATA, DATA], axis=-1)),
    "5-D": nifti_bytes(DATA.reshape(4, 5, 6, 1, 1).repeat(2, axis=-1)),
    "color": nifti_bytes(RGB),
    "complex": nifti_bytes(DATA.astype(np.complex64)),
    "NaN affine": nifti_bytes(edit=put(280, "f", np.nan)),
    "infinite affine": nifti_bytes(edit=put(292, "f", np.inf)),
    "singular affine": nifti_bytes(edit=put(280, "12f", 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0)),
    "zero spacing": nifti_bytes(edit=both(no_form, put(80, "f", 0))),
    "tiny spacing": nifti_bytes(affine=np.diag([1, 1, 1e-3, 1])),
    "absurd spacing": nifti_bytes(affine=np.diag([1, 1, 100, 1])),
    "too many voxels": nifti_bytes(edit=put(42, "3h", 32767, 32767, 32767)),
    "slope without intercept": nifti_bytes(edit=put(112, "ff", 2, np.nan)),
    "unknown data type": nifti_bytes(edit=put(70, "h", 999)),
    "voxels far away": nifti_bytes(edit=put(108, "f", 1e30)),
    "voxels nowhere": nifti_bytes(edit=put(108, "f", np.nan)),
    "many NaN": voxels(np.nan, 30),
    "many infinite": voxels(-np.inf, 30),
    "half of a pair": nifti_bytes(edit=lambda content: content.__setitem__(slice(344, 348), b"ni1\0")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_an_error_of_one_line_that_names_it(tmp_path, name):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(BAD[name])
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert any(mark in message for mark in (";", "give", "export"))


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.symlink_to(p)])
def test_what_is_no_file_is_an_error(tmp_path, make):
    path = tmp_path / "image.nii"
    make(path)
    with pytest.raises(InputError, match=r"image\.nii"):
        read_volume(path)


@pytest.mark.parametrize("name", ["too many voxels", "NaN affine", "complex", "2-D"])
def test_a_bad_header_is_refused_before_any_voxel_is_read(tmp_path, name):
    path = tmp_path / "image.nii"
    path.write_bytes(BAD[name][:352])
    with pytest.raises(InputError) as caught:
        read_header(path)
    assert "cut short" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_what_was_written_is_read(tmp_path, dtype, kind, pack, name):
    path = tmp_path / name
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    image = kind(DATA.astype(dtype), AFFINE, header)
    image.set_data_dtype(np.dtype(dtype))
    path.write_bytes(pack(image.to_bytes()))
    volume = read_volume(path)
    assert volume.data.dtype == np.float32
    assert volume.affine.dtype == np.float64
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert volume.notes == ()
    assert read_header(path).shape == volume.shape


def test_scaling_is_applied(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_bytes(edit=put(112, "ff", 2, -5)))
    np.testing.assert_array_equal(read_volume(path).data, 2.0 * DATA - 5)


def test_a_trailing_axis_of_one_is_taken_off_with_a_note(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_bytes(DATA[..., None]))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, DATA)
    assert "4x5x6x1 taken as 4x5x6" in volume.notes


def test_wanted_volumes_of_a_4d_file_in_the_wanted_order_whatever_is_in_the_others(tmp_path):
    stack = np.stack([DATA.astype(np.float32), np.full(DATA.shape, np.nan, np.float32), -DATA], axis=-1)
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_bytes(stack))
    last, first = read_volumes(path, 3, (2, 0))
    np.testing.assert_array_equal(first.data, DATA)
    np.testing.assert_array_equal(last.data, -DATA)
    with pytest.raises(InputError, match="4 volumes"):
        read_volumes(path, 4, (0,))


def test_few_nan_become_zero_and_few_infinite_the_finite_extreme_with_notes(tmp_path):
    data = np.arange(1, 1001, dtype=np.float32).reshape(10, 10, 10)
    data.flat[[0, 1, 2]] = np.nan, np.inf, -1e30
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_bytes(data))
    volume = read_volume(path)
    assert volume.data.flat[:4].tolist() == [0, 1000, 4, 4]
    assert any("1 NaN" in note for note in volume.notes)
    assert any("2 infinite" in note for note in volume.notes)


def test_sform_goes_before_qform_and_their_disagreement_is_noted_in_mm(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_bytes(edit=both(put(252, "h", 1), put(280 + 12, "f", 7))))
    volume = read_volume(path)
    assert volume.affine[0, 3] == 7
    assert "qform and sform disagree by 7 mm; the sform is used" in volume.notes


def test_without_sform_and_qform_the_orientation_is_noted_as_unknown(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_bytes(edit=no_form))
    volume = read_volume(path)
    assert any("orientation unknown" in note for note in volume.notes)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [1, 1.5, 3])


def test_a_slanted_grid_is_noted(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_bytes(edit=put(284, "f", 0.3)))
    assert any("sheared" in note for note in read_volume(path).notes)


def test_a_symlink_is_followed(tmp_path):
    (tmp_path / "image.nii").write_bytes(nifti_bytes())
    os.symlink(tmp_path / "image.nii", tmp_path / "link.nii")
    assert read_volume(tmp_path / "link.nii").shape == DATA.shape


@pytest.mark.parametrize(
    ("shift", "turn", "same"), [(0.005, 0, True), (0.02, 0, False), (0, 1e-4, True), (0, 1, False)]
)
def test_grids_are_the_same_within_a_hundredth_of_a_millimetre_at_the_corners(tmp_path, shift, turn, same):
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    moved = np.array([[c, -s, 0, shift], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE
    a, b = (Volume(DATA.astype(np.float32), affine, tmp_path, ()) for affine in (AFFINE, moved))
    assert same_grid(a, b) is same_grid(b, a) is same


def test_grids_of_another_shape_differ(tmp_path):
    a, b = (Volume(data.astype(np.float32), AFFINE, tmp_path, ()) for data in (DATA, DATA[:3]))
    assert not same_grid(a, b)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_header_gives_a_volume_or_an_input_error(tmp_path_factory, data):
    content = bytearray(nifti_bytes(kind=data.draw(st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]))))
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.integers(0, 360))
        form = data.draw(st.sampled_from(["B", "h", "i", "f", "d", "q"]))
        if form in "fd":
            value = data.draw(st.floats(width=32 if form == "f" else 64))
        else:
            bits = 8 * struct.calcsize(form)
            low = 0 if form == "B" else -(2 ** (bits - 1))
            value = data.draw(st.integers(low, low + 2**bits - 1))
        struct.pack_into("<" + form, content, offset, value)
    path = tmp_path_factory.getbasetemp() / "fuzzed.nii"
    path.write_bytes(gzip.compress(content, 1) if data.draw(st.booleans()) else content)
    try:
        volume = read_volume(path, max_voxels=10_000)
    except InputError:
        return
    assert volume.data.ndim == 3
    assert np.isfinite(volume.data).all()
    assert np.isfinite(np.linalg.inv(volume.affine)).all()


def test_a_file_compressed_twice_is_read(tmp_path):
    path = tmp_path / "twice.nii.gz"
    path.write_bytes(gzip.compress(gzip.compress(nifti_bytes())))
    once = tmp_path / "once.nii.gz"
    once.write_bytes(gzip.compress(nifti_bytes()))
    assert np.array_equal(read_volume(path).data, read_volume(once).data)


def test_an_all_zero_sform_gives_way_to_the_qform(tmp_path):
    image = nib.Nifti1Image(DATA, AFFINE)
    image.header.set_qform(AFFINE, 1)
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = 0
    image.header["sform_code"] = 1
    (tmp_path / "x.nii").write_bytes(image.header.binaryblock + b"\0" * 4 + np.asfortranarray(DATA).tobytes("F"))
    header = read_header(tmp_path / "x.nii")
    np.testing.assert_allclose(header.affine, AFFINE, atol=1e-4)
    assert "its sform is all zero; the qform is used" in header.notes
    write_labels(tmp_path / "labels.nii.gz", np.ones(DATA.shape, np.uint8), tmp_path / "x.nii")
    np.testing.assert_allclose(nib.load(tmp_path / "labels.nii.gz").affine, header.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("unit", "size", "said"), [("micron", 2000.0, "from micrometers"), ("meter", 1000.0, "from meters")]
)
def test_a_file_in_another_unit_is_refused_with_it(tmp_path, unit, size, said):
    image = nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.diag([size, size, size, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "x.nii")
    with pytest.raises(InputError, match=f"convert it to mm {said}"):
        read_header(tmp_path / "x.nii")


def test_a_unit_that_the_numbers_contradict_is_noted(tmp_path):
    image = nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "x.nii")
    assert any("the unit meters" in note for note in read_header(tmp_path / "x.nii").notes)
