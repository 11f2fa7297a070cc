import filecmp
import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from monai_passion.cli import main
from monai_passion.data.phantom import brain, cohort, common, heart
from monai_passion.data.phantom.signal import (
    BRAIN,
    HEART,
    LESIONS,
    bssfp,
    inversion_recovery,
    null_inversion_time,
    spin_echo,
)
from monai_passion.errors import ResourceError, UsageError

pytest.importorskip("nilearn", reason="the brain phantom needs the extra [phantom]")


def signals(tissue):
    """Magnitudes at the nominal protocol."""
    return {
        m: abs(s) for m, s in brain.acquire(tissue.pd, tissue.t1, tissue.t1_gd, tissue.t2, brain.Protocol()).items()
    }


def descending(*values):
    return all(a > b for a, b in itertools.pairwise(values))


BRAIN_SIGNAL = {name: signals(tissue) for name, tissue in BRAIN.items()}
HEART_SIGNAL = {name: {m: abs(s) for m, s in heart.acquire(tissue).items()} for name, tissue in HEART.items()}


def of(modality, *names, table=BRAIN_SIGNAL):
    return [table[name][modality] for name in names]


@pytest.fixture(scope="module")
def brains():
    return [brain.brain_case(3, index, 40) for index in range(8)]


@pytest.fixture(scope="module")
def hearts():
    return [heart.heart_case(3, index, 128) for index in range(6)]


# equations


def test_spin_echo_without_decay_is_saturation_recovery():
    assert spin_echo(0.7, 850.0, 1e12, tr=850 * np.log(2), te=12) == pytest.approx(0.35)


@pytest.mark.parametrize("t1", [450.0, 4000.0])
def test_null_inversion_time_nulls(t1):
    ti = null_inversion_time(t1, 1600)
    assert inversion_recovery(1.0, t1, 50.0, tr=1600, te=2, ti=ti) == pytest.approx(0, abs=1e-12)
    assert inversion_recovery(1.0, 0.9 * t1, 50.0, tr=1600, te=2, ti=ti) > 0


def test_bssfp_is_the_steady_state_of_the_rotations():
    """Iterate the pulse and the relaxation until nothing changes any more."""
    t1, t2, tr, flip = 300.0, 80.0, 5.0, 0.7
    half = np.diag([np.exp(-tr / 2 / t2), np.exp(-tr / 2 / t1)])
    recover = np.array([0, 1 - np.exp(-tr / 2 / t1)])
    m = np.array([0.0, 1.0])
    for pulse in range(4000):
        a = flip * (-1) ** pulse
        m = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) @ m
        m = half @ m + recover
        echo = abs(m[0])
        m = half @ m + recover
    assert bssfp(1.0, t1, t2, tr=tr, flip=flip) == pytest.approx(echo, rel=1e-6)


# contrast of the tissue tables


def test_t1_contrast():
    assert descending(*of("t1", "wm", "gm", "csf"))
    assert descending(*of("t1", "wm", "ncr"))


def test_contrast_agent_makes_a_bright_rim_about_dark_necrosis():
    assert descending(*of("t1c", "et", "wm", "ncr"))
    assert BRAIN_SIGNAL["et"]["t1c"] > 1.5 * BRAIN_SIGNAL["et"]["t1"]


def test_t2_contrast():
    assert descending(*of("t2", "csf", "ncr", "ed", "et", "gm", "wm"))


def test_flair_contrast():
    normal_and_lesions = {name: s["flair"] for name, s in BRAIN_SIGNAL.items() if name != "vessel"}
    assert max(normal_and_lesions, key=normal_and_lesions.get) == "ed"
    assert min(normal_and_lesions, key=normal_and_lesions.get) == "csf"


def test_enhancing_tumor_stands_out_after_contrast_only():
    def nearest(modality):
        others = [s[modality] for name, s in BRAIN_SIGNAL.items() if name not in ("et", "vessel")]
        return min(abs(np.log(BRAIN_SIGNAL["et"][modality] / other)) for other in others)

    assert nearest("t1c") > 0.3
    assert all(nearest(modality) < 0.15 for modality in ("t1", "t2", "flair"))


def test_cardiac_contrast():
    assert descending(*of("bssfp", "lv_blood", "edema", "myocardium", table=HEART_SIGNAL))
    assert descending(*of("lge", "scar", "lv_blood", "edema", "myocardium", table=HEART_SIGNAL))
    assert descending(*of("t2", "edema", "scar", "myocardium", table=HEART_SIGNAL))
    assert HEART_SIGNAL["myocardium"]["lge"] == pytest.approx(0, abs=1e-9)
    assert HEART_SIGNAL["scar"]["bssfp"] == pytest.approx(HEART_SIGNAL["myocardium"]["bssfp"], rel=0.1)


def test_a_subjects_contrast_agent_always_shortens_t1():
    for seed in range(50):
        for tissue in common.vary(np.random.default_rng(seed), BRAIN, dict.fromkeys(BRAIN, 0.15)).values():
            assert 0 < tissue.t1_gd < tissue.t1


# random fields, partial volume, noise


def test_a_field_is_the_same_on_a_finer_grid():
    coarse = common.CenteredGrid((9, 9, 9), (4.0, 4.0, 4.0))
    fine = common.CenteredGrid((17, 17, 17), (2.0, 2.0, 2.0))
    a, b = (common.smooth_field(np.random.default_rng(1), grid, 20.0, 7.0) for grid in (coarse, fine))
    np.testing.assert_allclose(a, b[::2, ::2, ::2], atol=1e-5)


def test_a_field_has_unit_variance():
    grid = common.CenteredGrid((64, 64, 64), (3.3, 3.3, 3.3))
    field = common.smooth_field(np.random.default_rng(0), grid, 13.0, 7.0)
    assert field.mean() == pytest.approx(0, abs=0.05)
    assert field.std() == pytest.approx(1, abs=0.05)


def test_painting_keeps_the_sum_of_fractions():
    rng = np.random.default_rng(0)
    fractions = {"wm": rng.random(50), "gm": np.zeros(50)}
    fractions["gm"] = 1 - fractions["wm"]
    for tissue in ("ed", "ed", "gm"):
        common.paint(fractions, tissue, rng.random(50))
    np.testing.assert_allclose(sum(fractions.values()), 1)


def test_bias_field_spans_the_non_uniformity():
    field = common.bias_field(np.random.default_rng(0), common.CenteredGrid((40, 40, 40), (5.0, 5.0, 5.0)), 0.2)
    assert np.abs(field - 1).max() == pytest.approx(0.1, abs=1e-6)


def test_noise_in_the_background_is_rayleigh():
    noise = common.rician(np.random.default_rng(0), np.zeros(200_000, np.float32), 2.0)
    assert noise.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)


# geometry of the brain


def test_edema_goes_round_a_wall():
    speed = np.ones((21, 21, 1))
    speed[10, :-1] = 1e-3
    sources = np.zeros(speed.shape, bool)
    sources[0, 0] = True
    time = brain.travel_time(speed, sources, 1.0)
    assert time[0, 15, 0] == pytest.approx(15)
    assert time[9, 0, 0] == pytest.approx(9)
    assert time[20, 0, 0] == pytest.approx(20 + 20 * np.sqrt(2))  # through the gap at the far end


def test_about_one_tumor_in_ten_does_not_enhance():
    share = np.mean([not brain.draw_tumor(np.random.default_rng(seed)).enhancing for seed in range(600)])
    assert 0.06 < share < 0.14


def test_a_tumor_that_does_not_enhance_has_neither_rim_nor_necrosis():
    subject = brain.draw_subject(np.random.default_rng(0))
    _, fractions = brain.tissue_fractions(subject._replace(tumor=subject.tumor._replace(enhancing=False)), brain.SCOUT)
    assert not {"et", "ncr"} & set(fractions)
    assert fractions["net"].max() == 1


def test_fractions_sum_to_one_and_csf_holds_no_edema():
    subject = brain.draw_subject(np.random.default_rng(1))
    inside, fractions = brain.tissue_fractions(subject, brain.SCOUT)
    np.testing.assert_allclose(sum(fractions.values()), 1, atol=1e-5)
    assert len(fractions["csf"]) == inside.sum()
    assert not (fractions["ed"][fractions["csf"] > 0.7] > 0.3).any()


def test_the_tumor_pushes_but_the_skull_stays():
    subject = brain.draw_subject(np.random.default_rng(2))
    subject = subject._replace(tumor=subject.tumor._replace(push=6.0))
    before, after = (brain.atlas_points(subject, brain.SCOUT, mass_effect=moved) for moved in (False, True))
    moved = np.linalg.norm(after - before, axis=0)
    depth = brain.sample(brain.atlas().depth, before / 2)
    assert moved.max() > 3
    assert moved[depth == 0].max() < 1e-3


def test_the_tumor_core_lies_deeper_than_the_edema(brains):
    for case in brains:
        label = case.label
        dark = label == 1
        if not (label == 4).any() or dark.sum() < 30:
            continue
        x = np.stack(np.indices(label.shape))
        center = x[:, np.isin(label, (1, 4))].mean(1)
        distance = np.linalg.norm(x - center[:, None, None, None], axis=0)
        assert distance[label == 4].mean() < distance[label == 2].mean()
        assert distance[dark].mean() < distance[label == 2].mean()


def test_the_tumor_core_is_one_piece_inside_the_brain(brains):
    for case in brains:
        pieces, _ = ndimage.label(np.isin(case.label, (1, 4)), np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert sizes.max() > 0.9 * sizes.sum()
        assert not case.label[case.images["t1"] == 0].any()


def test_each_region_has_dozens_of_voxels(brains):
    counts = np.array([[(case.label == value).sum() for value in (1, 2, 4)] for case in brains])
    assert (np.median(counts, axis=0) > 48).all()
    assert (counts.sum(1) > 100).all()


def test_the_patient_is_the_same_at_each_size(brains):
    finer = brain.brain_case(3, 0, 56)
    for values in ((1, 2, 4), (1, 4), (4,)):
        small, large = (
            np.isin(case.label, values).sum() * abs(np.linalg.det(case.affine[:3, :3])) for case in (brains[0], finer)
        )
        assert small == pytest.approx(large, rel=0.15)


# images


def region_means(cases, outside):
    """Mean of each region over that of the whole, then over cases: {modality: {label: value}}."""
    values = sorted({int(v) for case in cases for v in np.unique(case.label)})
    table = {}
    for modality in cases[0].images:
        rows = []
        for case in cases:
            image = case.images[modality].astype(float)
            inside = outside(case)
            rows.append(
                [image[inside & (case.label == v)].mean() if (case.label == v).any() else np.nan for v in values]
            )
            rows[-1] = np.array(rows[-1]) / image[inside].mean()
        table[modality] = dict(zip(values, np.nanmean(rows, axis=0), strict=True))
    return table


def test_regions_of_brain_images_have_the_contrast_of_their_tissues(brains):
    mean = region_means(brains, lambda case: case.images["t1"] > 0)
    assert mean["t1"][1] < mean["t1"][0]
    assert mean["t1c"][4] > 1.25 * max(mean["t1c"][v] for v in (0, 1, 2))
    assert descending(mean["t2"][1], mean["t2"][2], mean["t2"][0])
    assert mean["t2"][4] > mean["t2"][0]
    assert mean["flair"][2] > 1.25 * mean["flair"][0]
    assert mean["flair"][2] > max(mean["flair"][v] for v in (1, 4))


def test_regions_of_heart_images_have_the_contrast_of_their_tissues(hearts):
    mean = region_means(hearts, lambda case: np.ones(case.label.shape, bool))
    assert min(mean["bssfp"][v] for v in (500, 600)) > 1.8 * max(mean["bssfp"][v] for v in (200, 1220, 2221))
    assert descending(mean["lge"][2221], mean["lge"][500], mean["lge"][1220], mean["lge"][200])
    assert descending(mean["t2"][1220], mean["t2"][2221], mean["t2"][200], mean["t2"][500])


def test_a_tumor_core_grows_by_the_share_that_was_asked_for_in_a_head_that_stays_as_it_was():
    before, after = brain.brain_case(1000, 3, 60), brain.brain_case(1000, 3, 60, growth=0.4)
    core = [np.isin(case.label, (1, 4)) for case in (before, after)]
    assert core[1].sum() / core[0].sum() == pytest.approx(1.4, abs=0.1)
    assert not (core[0] & (after.label == 0)).any()
    head = before.images["t1"] > 0
    assert np.array_equal(head, after.images["t1"] > 0)
    normal = head & (before.label == 0) & (after.label == 0)
    assert np.mean(before.images["t1"][normal] == after.images["t1"][normal]) > 0.9


@pytest.mark.parametrize(("layout", "growth"), [("myops", 0.4), ("brats-healthy", 0.4), ("brats", -1.0)])
def test_growth_without_a_tumor_and_beyond_all_bounds_is_refused(tmp_path, layout, growth):
    with pytest.raises(UsageError, match="growth"):
        cohort.write_cohort(tmp_path / "out", layout, 1, size=48, growth=growth)
    assert not (tmp_path / "out").exists()


def test_a_healthy_head_has_no_label_and_no_voxel_as_bright_as_edema(brains):
    for index, case in enumerate(brains[:2]):
        healthy = brain.brain_case(3, index, 40, healthy=True)
        assert not healthy.label.any()
        assert all(image.any() for image in healthy.images.values())
        edema = np.median(case.images["flair"][case.label == 2])
        bright = (healthy.images["flair"] > edema).sum() / (case.images["flair"] > edema).sum()
        assert bright < 0.3


def test_brain_images_are_zero_outside_and_positive_inside(brains):
    for case in brains:
        supports = [image > 0 for image in case.images.values()]
        assert all((support == supports[0]).all() for support in supports)
        assert 0.9e6 < supports[0].sum() * abs(np.linalg.det(case.affine[:3, :3])) < 1.9e6
        assert all(image.dtype == np.int16 and image.min() == 0 for image in case.images.values())


def test_no_threshold_of_one_image_finds_the_whole_tumor(brains):
    """Otherwise a network would have nothing to learn."""

    def dice(image, truth):
        inside = image > 0
        return max(
            2 * (truth & (image > cut)).sum() / (truth.sum() + (image > cut).sum())
            for cut in np.percentile(image[inside], np.arange(70, 100, 1.0))
        )

    for modality in ("flair", "t2", "t1c"):
        assert np.mean([dice(case.images[modality], case.label > 0) for case in brains]) < 0.85


def test_label_values(brains, hearts):
    assert {int(v) for case in brains for v in np.unique(case.label)} == {0, 1, 2, 4}
    for case in hearts:
        assert set(np.unique(case.label)) == {0, 200, 500, 600, 1220, 2221}


def test_scar_and_edema_lie_in_the_wall_about_the_blood(hearts):
    for case in hearts:
        wall = np.isin(case.label, (200, 1220, 2221))
        for k in range(case.label.shape[2]):
            filled = ndimage.binary_fill_holes(wall[..., k])
            assert filled[case.label[..., k] == 500].mean() > 0.95
            assert not filled[case.label[..., k] == 600].any()


# files


def tree(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*.nii.gz"))


@pytest.mark.parametrize(
    ("layout", "size", "first", "suffixes"),
    [
        ("brats", 24, "BraTS20_Training_001", ("flair", "seg", "t1", "t1ce", "t2")),
        ("myops", 32, "myops_training_101", ("C0", "LGE", "T2", "gd")),
    ],
)
def test_layout_and_same_seed_same_bytes_whatever_the_number_of_cases(tmp_path, layout, size, first, suffixes):
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    cohort.write_cohort(a, layout, 2, 7, size)
    assert main(["phantom", layout, str(b), "--cases", "1", "--seed", "7", "--size", str(size)]) == 0
    cohort.write_cohort(c, layout, 1, 8, size)
    files = [f"{first}/{first}_{suffix}.nii.gz" for suffix in suffixes]
    assert [str(path) for path in tree(b)] == files
    assert len(tree(a)) == 2 * len(files)
    assert filecmp.cmpfiles(a, b, files, shallow=False)[0] == files
    assert filecmp.cmpfiles(a, c, files, shallow=False)[1] == files


def test_gzip_headers_carry_no_time(tmp_path):
    cohort.write_cohort(tmp_path / "a", "myops", 1, 0, 32)
    assert [path.read_bytes()[4:8] for path in (tmp_path / "a").rglob("*.nii.gz")] == [bytes(4)] * 4


def test_affine_of_a_small_brain_covers_the_brats_volume(tmp_path):
    (folder,) = cohort.write_cohort(tmp_path / "a", "brats", 1, 0, 24)
    image = nib.load(folder / f"{folder.name}_t1ce.nii.gz")
    assert image.shape == (24, 24, 24)
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(np.diag(image.affine), [-7.5, -7.5, 7.5, 1])
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.affine @ [11.5, 11.5, 11.5, 1], [-119.5, 119.5, 77, 1])


@pytest.mark.slow
def test_a_full_size_brain_has_the_grid_of_brats2020():
    case = brain.brain_case(0, 0)
    assert case.label.shape == (240, 240, 155)
    np.testing.assert_array_equal(case.affine, [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_heart_spacing_and_slices(hearts):
    for case in hearts:
        spacing = nib.affines.voxel_sizes(case.affine)
        slices = case.label.shape[2]
        assert 3 <= slices <= 6
        np.testing.assert_allclose(spacing, [187 / 128, 187 / 128, heart.SLICES[slices]])


def test_a_second_call_goes_on_and_keeps_what_is_there(tmp_path):
    seen = []
    cohort.write_cohort(tmp_path, "myops", 1, 0, 32)
    stamp = next(tmp_path.rglob("*_gd.nii.gz")).stat().st_mtime_ns
    cohort.write_cohort(tmp_path, "myops", 2, 0, 32, lambda name, written: seen.append((name, written)))
    assert seen == [("myops_training_101", False), ("myops_training_102", True)]
    assert next((tmp_path / "myops_training_101").glob("*_gd.nii.gz")).stat().st_mtime_ns == stamp


def test_a_failure_leaves_no_half_case(tmp_path, monkeypatch):
    def full_disk(volume, affine, path):
        path.touch()
        if "LGE" in path.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(cohort, "save", full_disk)
    with pytest.raises(ResourceError, match="No space left"):
        cohort.write_cohort(tmp_path, "myops", 1, 0, 32)
    assert [path.name for path in tmp_path.iterdir()] == [cohort.MARKER]


def test_a_folder_of_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["phantom", "myops", str(tmp_path), "--cases", "1", "--size", "32"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 40}, {"cases": 1}])
def test_another_cohort_in_the_same_folder_is_refused(tmp_path, change):
    cohort.write_cohort(tmp_path, "myops", 2, 0, 32)
    with pytest.raises(UsageError, match=r"another cohort|also holds myops_training_102"):
        cohort.write_cohort(tmp_path, "myops", **({"cases": 2, "seed": 0, "size": 32} | change))


@pytest.mark.parametrize("values", [{"cases": 0}, {"seed": -1}, {"size": 7}])
def test_values_out_of_range(tmp_path, values):
    with pytest.raises(UsageError, match=next(iter(values))):
        cohort.write_cohort(tmp_path / "a", "myops", **({"cases": 1} | values))
    assert not (tmp_path / "a").exists()


def test_without_nilearn_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "nilearn", None)
    unprepared = cohort.PHANTOM_LAYOUTS["brats"]._replace(prepare=brain.atlas.__wrapped__)
    monkeypatch.setitem(cohort.PHANTOM_LAYOUTS, "brats", unprepared)
    assert main(["phantom", "brats", str(tmp_path / "a"), "--cases", "1"]) == 2
    assert 'pip install "monai_passion[phantom]"' in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_lesions_vary_more_between_subjects_than_normal_tissue():
    assert set(LESIONS) < set(BRAIN)
    draws = [brain.draw_tissues(np.random.default_rng(seed)) for seed in range(200)]
    spread = {name: np.std([np.log(d[name].t2) for d in draws]) for name in BRAIN}
    assert max(spread[n] for n in BRAIN if n not in LESIONS) < 0.05 < 0.08 < min(spread[n] for n in LESIONS)
