import pandas as pd
import pytest

from monai_passion.reporting.seeds import ENDPOINTS, compare_to_first, endpoints


def rows(method, seed, dice, predicted=4.0):
    """Two combinations of one patient per Dice; the reference has 2 mL."""
    found = [
        {"case": p, "patient": p, "combination": combination, "region": "WT", "convention": convention}
        | {"dice": d + (0.2 if combination == "t1+t2" else 0.0), "hd95": 3.0, "predicted_ml": predicted}
        | {"reference_ml": 2.0, "ece": 0.05, "method": method, "seed": seed}
        for p, d in dice.items()
        for combination in ("t2", "t1+t2")
        for convention in ("challenge", "released")
    ]
    return pd.DataFrame(found)


def test_endpoints_by_hand():
    table = endpoints(rows("a", 7, {"p": 0.5}), rare=["t2"])
    # Overlaps of 0.5 (4 + 2) / 2 = 1.5 mL and 2.1 mL, of 4 mL that were predicted.
    assert table.loc["a", 7, "p"].to_dict() == pytest.approx(
        {"dice": 0.6, "dice_rare": 0.5, "false_positive_ml": (2.5 + 1.9) / 2, "hd95": 3.0, "ece": 0.05}
    )


def test_distances_are_of_regions_that_both_have():
    table = endpoints(rows("a", 1, {"p": 0.0}, predicted=0.0))
    assert table["hd95"].isna().all()
    assert (table["false_positive_ml"] == 0).all()


def test_without_probabilities_calibration_is_left_out():
    runs = [rows("base", s, {"p": 0.3}).assign(ece=float("nan")) for s in (1, 2)]
    runs += [rows("new", s, {"p": 0.35}) for s in (1, 2)]
    assert set(compare_to_first(pd.concat(runs), rare=["t2"])["endpoint"]) == {*ENDPOINTS} - {"ece"}


@pytest.mark.filterwarnings("error")
def test_methods_are_compared_to_the_first_over_common_seeds():
    runs = [rows("base", s, {"p": 0.3, "q": 0.4}) for s in (1, 2)]
    runs += [rows("new", s, {"p": 0.35, "q": 0.45}) for s in (2, 1, 3)]
    table = compare_to_first(pd.concat(runs), rare=["t2"])
    assert list(table["endpoint"]) == list(ENDPOINTS)
    dice = table.iloc[0]
    assert (dice["method"], dice["baseline"], dice["seeds"], dice["patients"]) == ("new", "base", 2, 2)
    assert dice["difference"] == pytest.approx(0.05)


def test_a_method_that_misses_the_hard_regions_does_not_win_by_distance():
    """It is 1 mm worse where both find the region, though its own mean is the smaller."""
    base, new = rows("base", 1, {"p": 0.5}), rows("new", 1, {"p": 0.5})
    base["hd95"] = base["combination"].map({"t1+t2": 2.0, "t2": 30.0})
    new["hd95"] = 3.0
    new.loc[new["combination"] == "t2", "predicted_ml"] = 0.0
    table = compare_to_first(pd.concat([base, new])).set_index("endpoint")
    assert table.loc["hd95", "difference"] == pytest.approx(1)
    means = endpoints(pd.concat([base, new]))["hd95"]
    assert means["new"].item() < means["base"].item()


def test_without_rows_of_the_challenge_there_is_nothing_to_compare():
    runs = [rows(method, 1, {"p": 0.5}).query("convention == 'released'") for method in ("base", "new")]
    assert endpoints(pd.concat(runs)).empty
    assert compare_to_first(pd.concat(runs)).empty
