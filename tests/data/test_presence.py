import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_passion.data.presence import Presence, draw_presence, read_presence, write_presence
from monai_passion.errors import InputError, UsageError
from tests.helpers.tasks import BRATS_MRI, MYOPS_CMR

MR2468 = {"t1": 0.2, "t1c": 0.4, "flair": 0.6, "t2": 0.8}


def expected_counts(n, rates):
    """The product of rates, spelled out."""
    chances = {}
    for mask in itertools.product([False, True], repeat=len(rates)):
        if any(mask):
            chances[mask] = float(np.prod([1 - r if has else r for has, r in zip(mask, rates, strict=True)]))
    return {mask: n * chance / sum(chances.values()) for mask, chance in chances.items()}


@settings(max_examples=60, deadline=None)
@given(st.integers(60, 400), st.lists(st.floats(0, 0.95), min_size=2, max_size=5), st.integers(0, 99))
def test_each_combination_is_as_frequent_as_the_product_says_to_within_one_case(n, rates, seed):
    likely = expected_counts(n, rates)
    in_half_a_case = [sum(c for mask, c in likely.items() if mask[m]) for m in range(len(rates))]
    if min(in_half_a_case) < 5:
        return
    table = draw_presence(n, rates, seed)
    counts = Counter(map(tuple, table.tolist()))
    assert sum(counts.values()) == n
    assert all(abs(counts[mask] - count) < 1 for mask, count in likely.items())


def test_counts_are_the_largest_remainders():
    # 10 cases of two modalities: 10 * (0.12, 0.42, 0.28) / 0.82 = 1.46 a, 5.12 b, 3.41 both
    counts = Counter(map(tuple, draw_presence(10, [0.6, 0.3]).tolist()))
    assert counts == {(True, False): 2, (False, True): 5, (True, True): 3}


@pytest.mark.parametrize("rates", [[0.95] * 4, [0.95, 0.95, 0.95, 0.0], [0.0] * 4, [0.9, 0.1, 0.95, 0.5]])
@pytest.mark.parametrize("n", [15, 40, 219])
def test_nobody_is_left_with_nothing_and_every_modality_occurs_at_extreme_rates(n, rates):
    table = draw_presence(n, rates, seed=3)
    assert table.shape == (n, 4)
    assert table.any(axis=1).all()
    assert table.any(axis=0).all()


def test_a_modality_that_rounding_would_lose_is_put_back_at_the_cost_of_one_case():
    # Every combination with the third is expected less than half a case, together 0.9 of one.
    rates = [0.3, 0.3, 0.9]
    table = draw_presence(8, rates)
    likely = expected_counts(8, rates)
    assert all(count < 0.5 for mask, count in likely.items() if mask[2])
    assert table[:, 2].sum() == 1


def test_the_seed_moves_who_but_not_how_many():
    a, b = draw_presence(50, [0.2, 0.5, 0.8], 1), draw_presence(50, [0.2, 0.5, 0.8], 2)
    assert (a != b).any()
    assert sorted(a.tolist()) == sorted(b.tolist())
    np.testing.assert_array_equal(a, draw_presence(50, [0.2, 0.5, 0.8], 1))


def test_rates_by_name_are_those_of_the_names_whatever_their_order():
    by_name = draw_presence(219, MR2468, modalities=BRATS_MRI)
    np.testing.assert_array_equal(by_name, draw_presence(219, [0.6, 0.4, 0.2, 0.8], modalities=BRATS_MRI))


def test_who_lacks_files_follows_the_rates_given_that_something_is_left():
    """Of the first two of three modalities: the chances of a, b and both, given one of them, over many draws."""
    have = np.tile([True, True, False], (40, 1))
    tables = np.concatenate([draw_presence(40, [0.5, 0.8, 0.1], seed, have=have) for seed in range(50)])
    assert not tables[:, 2].any()
    chances = {(True, False): 0.5 * 0.8, (False, True): 0.5 * 0.2, (True, True): 0.5 * 0.2}
    for mask, chance in chances.items():
        share = (tables[:, :2] == mask).all(axis=1).mean()
        assert share == pytest.approx(chance / sum(chances.values()), abs=0.05)


def test_having_everything_changes_no_draw():
    have = np.ones((50, 3), dtype=bool)
    np.testing.assert_array_equal(
        draw_presence(50, [0.2, 0.5, 0.8], 1, have=have), draw_presence(50, [0.2, 0.5, 0.8], 1)
    )


def test_each_group_follows_its_own_rates():
    groups = ["north", "south"] * 50
    table = draw_presence(100, {"south": [0.0, 0.9], "north": [0.9, 0.0]}, groups=groups)
    north = table[::2]
    assert north[:, 1].all()
    assert north[:, 0].mean() == 0.1
    assert table[1::2, 0].all()
    assert table[1::2, 1].mean() == 0.1


@pytest.mark.parametrize(
    ("rates", "match"),
    [
        ([0.2, 0.4, 0.6], r"missing_rates has 3 values for 4 modalities .*give one rate in \[0, 1\) per modality"),
        ([-0.1, 0.2, 0.2, 0.2], "-0.1 of flair is not in"),
        ([0.2, 0.2, 0.2, 1.0], "1.0 of t2 is not in"),
        ([0.2, 0.2, 0.2, float("nan")], "nan of t2"),
        (["0.2", 0.2, 0.2, 0.2], "'0.2' of flair"),
        ("0.2", "'0.2' values"),
        ([0.1, 0.1, 0.1, 0.99], r"leave t2 to 0.2 of 20 cases \(rate 0.99\); lower its rate or take more cases"),
        ({"t1": 0.2, "t2": 0.2, "flair": 0.1}, "no rate for t1c"),
        ({"t1": 0.2, "t3": 0.2}, "unknown modality 't3'"),
        ({"north": [0.1] * 4}, "no rates for the group.s. 'south'"),
    ],
)
def test_wrong_rates_say_what_to_change(rates, match):
    with pytest.raises(UsageError, match=match):
        draw_presence(20, rates, groups=["north", "south"] * 10, modalities=BRATS_MRI)


def test_what_is_written_is_read(tmp_path):
    table = draw_presence(30, [0.3, 0.5, 0.7], 5)
    written = Presence(tuple(f"patient {n}" for n in range(30)), MYOPS_CMR, table)
    write_presence(tmp_path / "p.csv", written)
    read = read_presence(tmp_path / "p.csv")
    assert read[:2] == written[:2]
    np.testing.assert_array_equal(read.table, table)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_columns_come_in_the_order_asked_for_under_any_alias(tmp_path):
    (tmp_path / "p.csv").write_text("case,T2,T1ce,FLAIR,T1\na,0,1,0,0\n")
    read = read_presence(tmp_path / "p.csv", BRATS_MRI)
    assert read.modalities == BRATS_MRI
    assert read.table.tolist() == [[False, True, False, False]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "case\na\n",
        "case,t1,t2\n",
        "case,t1,t2\na,0,0\n",
        "case,t1,t2\na,1,2\n",
        "case,t1,t2\na,1,0\na,1,1\n",
        "case,t1\na,1\n",
        'data_name,mask\na,"[True, False]"\n',
        "name,t1,t2\na,1,1\n",
    ],
)
def test_a_wrong_table_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=r"p\.csv"):
        read_presence(tmp_path / "p.csv", ("t1", "t2"))


def test_a_table_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"p\.csv cannot be read"):
        read_presence(tmp_path / "p.csv")


@pytest.mark.parametrize("flag", ["True", "np.True_"])
def test_published_masks_are_flair_t1c_t1_t2_and_names_lose_the_grade(tmp_path, flag):
    (tmp_path / "p.csv").write_text(
        f'data_name,mask_id,mask\nHG_a,1,"[False, {flag}, False, False]"\nLG_b,2,"[{flag}, False, False, False]"\n'
    )
    read = read_presence(tmp_path / "p.csv")
    assert read.cases == ("a", "b")
    assert read.modalities == BRATS_MRI
    assert read.table.tolist() == [[False, True, False, False], [True, False, False, False]]


def test_published_tables_have_the_published_counts(golden, real_data):
    numbers = np.load(golden / "masks.npz")
    kinds = (
        ("brats2020", "brats_split", "brats_modal_num_flair_t1c_t1_t2", "brats_combination_counts", "mask_array"),
        ("myops2020", "myops_split", "myops_modal_num_bssfp_lge_t2", "myops_combination_counts", "myops_mask_array"),
    )
    seen = 0
    for folder, names, per_modality, per_combination, masks in kinds:
        rows = zip(numbers[names], numbers[per_modality], numbers[per_combination], strict=True)
        for name, modalities, combinations in rows:
            path = real_data / "splits" / folder / str(name)
            if path.is_file():
                table = read_presence(path).table
                assert table.sum(axis=0).tolist() == modalities.tolist()
                assert [(table == mask).all(axis=1).sum() for mask in numbers[masks]] == combinations.tolist()
                seen += 1
    assert seen == 23


@pytest.mark.parametrize(
    "text",
    ["case;T1;T2\na;1;0\n", "case\tt1\tt2\na\t1\t0\n", ",Case,t1,t2\n0,a,1,0\n", "case , T1w , t2\na , 1 , 0\n"],
    ids=["semicolons", "tabs", "index and capitals", "blanks"],
)
def test_a_presence_table_is_read_however_it_was_saved(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    read = read_presence(tmp_path / "p.csv", ("t1", "t2"))
    assert (read.cases, read.table.tolist()) == (("a",), [[True, False]])


def test_who_lacks_a_modality_that_nobody_loses_keeps_what_it_has():
    have = np.ones((12, 4), bool)
    have[:4, 1] = False
    for seed in range(10):
        table = draw_presence(12, [0.6, 0.0, 0.6, 0.6], seed, modalities=BRATS_MRI, have=have)
        assert table.any(axis=1).all()
        assert not (table & ~have).any()
        assert table[4:, 1].all()


@pytest.mark.parametrize("header", ["case,FLAIR,T1ce,T1,T2w", "case,T1ce,FLAIR,T1,T2w", "case,t2w,flair"])
def test_columns_of_a_table_are_modalities_by_any_name(tmp_path, header):
    names = header.split(",")[1:]
    (tmp_path / "p.csv").write_text(f"{header}\nP1,{','.join('1' * len(names))}\n")
    expected = {"FLAIR": "flair", "T1ce": "t1c", "T1": "t1", "T2w": "t2", "t2w": "t2", "flair": "flair"}
    assert read_presence(tmp_path / "p.csv").modalities == tuple(expected[name] for name in names)


@pytest.mark.parametrize("end", ["", ",", ",,"])
def test_rows_that_end_in_separators_do_not_shift_a_table(tmp_path, end):
    (tmp_path / "p.csv").write_text(f"case,flair,t1c,t1,t2\nP1,1,0,1,1{end}\nP2,0,1,1,0\n")
    assert read_presence(tmp_path / "p.csv").table.tolist() == [[True, False, True, True], [False, True, True, False]]
    (tmp_path / "p.csv").write_text(f"case,flair,t1c,t1,t2\nP1,1,0,1,1,1{end}\n")
    with pytest.raises(InputError, match="row 2 has"):
        read_presence(tmp_path / "p.csv")
