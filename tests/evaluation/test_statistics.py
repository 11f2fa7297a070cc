import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_passion.evaluation.metrics import COLUMNS
from monai_passion.evaluation.statistics import (
    SeedComparison,
    bootstrap_mean,
    compare_methods,
    compare_seeds,
    detectable_difference,
    holm,
    paired_comparison,
)


def table(method, dice, *, patients=None, region="WT", run=0, combination="t1", convention="challenge"):
    patients = [f"p{i}" for i in range(len(dice))] if patients is None else patients
    frame = pd.DataFrame({"case": [f"{p}_{i}" for i, p in enumerate(patients)], "patient": patients, "dice": dice})
    frame = frame.assign(combination=combination, region=region, convention=convention, method=method, run=run)
    return frame.assign(**{name: 1.0 for name in COLUMNS if name not in frame})


def test_interval_is_that_of_the_mean_of_independent_patients():
    values = np.random.default_rng(0).normal(3, 2, 400)
    result = bootstrap_mean(values, resamples=5000)
    half = 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert result.mean == pytest.approx(values.mean())
    assert (result.low, result.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert result.n == 400


def test_the_interval_is_scipys():
    values = np.random.default_rng(3).uniform(size=11)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=500, method="percentile", rng=np.random.default_rng(4))
    ours = bootstrap_mean(values, resamples=500, seed=4)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=1e-12)


def test_repeating_every_case_of_a_patient_does_not_narrow_the_interval():
    values, patients = np.random.default_rng(1).normal(size=30), np.arange(30)
    once = bootstrap_mean(values, patients)
    ten_times = bootstrap_mean(np.repeat(values, 10), np.repeat(patients, 10))
    assert ten_times == pytest.approx(once)
    assert ten_times.n == 30


def test_mean_is_over_cases_where_patients_have_different_numbers_of_them():
    assert bootstrap_mean([1, 1, 1, 5], ["a", "a", "a", "b"]).mean == 2.0


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(2).normal(size=20)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5) != bootstrap_mean(values, seed=6)


def test_one_patient_has_a_mean_but_no_interval():
    mean, low, high, n = bootstrap_mean([1.0, 2.0], ["a", "a"])
    assert (mean, n) == (1.5, 1)
    assert np.isnan([low, high]).all()


def test_unknown_values_are_left_out_and_n_says_so():
    assert bootstrap_mean([1.0, np.nan, 3.0], ["a", "b", "c"])[::3] == (2.0, 2)
    assert bootstrap_mean([np.nan]).n == 0


def test_equal_values_have_an_interval_of_no_width():
    assert bootstrap_mean([0.5] * 4)[:3] == (0.5, 0.5, 0.5)


def test_holm_steps_down():
    """0.01 * 4, then 0.03 * 3, then the 0.04 * 2 that must not fall below it, then 0.5."""
    np.testing.assert_allclose(holm([0.03, 0.5, 0.01, 0.04]), [0.09, 0.5, 0.04, 0.09])
    np.testing.assert_allclose(holm([0.6, np.nan, 0.7]), [1.0, np.nan, 1.0])


def test_paired_test_is_scipys_and_the_effect_follows_the_ranks():
    a, b = np.random.default_rng(3).normal(size=(2, 25))
    result = paired_comparison(a + 0.3, b)
    assert result.p_value == stats.wilcoxon(a + 0.3, b).pvalue
    ranks = stats.rankdata(np.abs(a + 0.3 - b))
    assert result.rank_biserial == pytest.approx((ranks[a + 0.3 > b].sum() - ranks[a + 0.3 < b].sum()) / ranks.sum())
    assert result.mean_difference == pytest.approx((a + 0.3 - b).mean())
    assert result.low < result.mean_difference < result.high


def test_effect_is_one_where_a_always_wins_and_minus_one_where_b_does():
    assert paired_comparison([2, 3, 4], [1, 1, 1]).rank_biserial == 1
    assert paired_comparison([1, 1, 1], [2, 3, 4]).rank_biserial == -1


def test_equal_methods_do_not_differ():
    result = paired_comparison([1, 2, 3], [1, 2, 3])
    assert (result.n, result.mean_difference, result.p_value, result.rank_biserial) == (3, 0, 1, 0)


def test_seeds_do_not_count_as_patients():
    rng = np.random.default_rng(4)
    base, better = rng.normal(0.6, 0.1, 12), rng.normal(0.65, 0.1, 12)
    noise = rng.normal(0, 0.01, 12)
    seeds = pd.concat([table("a", base - noise, run=0), table("a", base + noise, run=1), table("b", better, run=0)])
    both = compare_methods(seeds, ["dice"]).iloc[0]
    averaged = compare_methods(pd.concat([table("a", base), table("b", better)]), ["dice"]).iloc[0]
    assert both["n"] == 12
    assert both["p_value"] == averaged["p_value"]
    assert both["mean_difference"] == pytest.approx(averaged["mean_difference"]) == (better - base).mean()


def test_slices_are_paired_by_patient():
    patients = ["p", "p", "p", "q", "r"]
    result = compare_methods(
        pd.concat([table("a", [0.1] * 5, patients=patients), table("b", [0.2, 0.3, 0.4, 0.5, 0.6], patients=patients)]),
        ["dice"],
    ).iloc[0]
    assert result["n"] == 3
    assert result["mean_difference"] == pytest.approx(np.mean([0.2, 0.4, 0.5]))


def test_only_what_both_methods_have_is_compared():
    lacking = table("b", [0.5, 0.6], patients=["p0", "p1"])
    result = compare_methods(pd.concat([table("a", [0.1, 0.2, 0.9]), lacking]), ["dice"]).iloc[0]
    assert result["n"] == 2
    assert result["mean_difference"] == pytest.approx(0.4)


def test_holm_covers_regions_and_pairs_of_one_metric():
    rng = np.random.default_rng(5)
    rows = pd.concat(
        [table(m, rng.normal(size=10), region=r) for m in ("a", "b", "c") for r in ("WT", "TC")], ignore_index=True
    )
    result = compare_methods(rows, ["dice"])
    assert len(result) == 6
    np.testing.assert_allclose(result["p_holm"], holm(result["p_value"]))
    assert (result["p_holm"] > result["p_value"]).any()
    assert list(zip(result["method_a"], result["method_b"], strict=True))[::2] == [("b", "a"), ("c", "a"), ("c", "b")]


def test_holm_covers_the_combinations_where_each_is_compared():
    rng = np.random.default_rng(6)
    rows = pd.concat([table(m, rng.normal(size=10), combination=c) for m in ("a", "b") for c in ("t1", "t2", "t1+t2")])
    result = compare_methods(rows, ["dice"], per_combination=True)
    assert sorted(result["combination"]) == ["t1", "t1+t2", "t2"]
    np.testing.assert_allclose(result["p_holm"], holm(result["p_value"]))
    alone = compare_methods(rows[rows["combination"] == "t2"], ["dice"]).iloc[0]
    found = result[result["combination"] == "t2"].iloc[0]
    assert found["mean_difference"] == pytest.approx(alone["mean_difference"])


def test_methods_without_a_patient_in_common_have_nothing_to_compare():
    rows = pd.concat([table("a", [0.1], patients=["p"]), table("b", [0.2], patients=["q"])])
    assert compare_methods(rows, ["dice"]).empty


def by_seed(values):
    values = np.asarray(values, dtype=float)
    index = pd.MultiIndex.from_product([range(values.shape[0]), [f"p{i}" for i in range(values.shape[1])]])
    return pd.Series(values.ravel(), index=index)


def test_seeds_are_compared_by_the_same_seed_and_patient():
    a, b = by_seed([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]), by_seed([[0.0, 1.0], [1.0, 2.0]])
    result = compare_seeds(a.sample(frac=1, random_state=0), b)
    assert (result.seeds, result.patients) == (2, 2)
    assert result.difference == pytest.approx(1.5)
    assert (result.low, result.high) == pytest.approx((1.0, 2.0))


def test_many_patients_do_not_make_up_for_few_seeds():
    rng = np.random.default_rng(0)
    luck = rng.normal(size=(3, 1))
    few, many = (compare_seeds(by_seed(luck + np.zeros((3, n))), by_seed(np.zeros((3, n)))) for n in (5, 200))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.1)
    assert many.detectable == pytest.approx(few.detectable)


def test_detectable_difference_by_hand():
    # n = 4, s = 1: t_0.975 and t_0.8 of 3 degrees of freedom are 3.182 and 0.978.
    values = np.array([-1.0, 1.0, -1.0, 1.0]) * np.sqrt(3) / 2
    assert detectable_difference(values) == pytest.approx((3.1824 + 0.9785) / 2, rel=1e-3)
    assert np.isnan(detectable_difference([1.0]))


def test_a_difference_counts_only_beyond_its_interval_and_what_is_detectable():
    make = lambda low, high, detectable: SeedComparison(4, 5, 1.0, low, high, detectable)  # noqa: E731
    assert make(0.5, 1.5, 0.9).counts
    assert not make(-0.1, 2.1, 0.9).counts
    assert not make(0.5, 1.5, 1.1).counts
    assert not make(np.nan, np.nan, np.nan).counts


def test_methods_without_a_common_seed_are_refused():
    with pytest.raises(ValueError, match="in common"):
        compare_seeds(by_seed([[1.0]]), by_seed([[np.nan]]))


def test_a_pooled_difference_is_that_of_the_pooled_means():
    """One patient has nine cases, the other one; tests are by patient all the same."""

    def rows(method, many, one):
        cases = [("p", f"p{k}", many) for k in range(9)] + [("q", "q", one)]
        return pd.DataFrame(
            [
                {"case": case, "patient": patient, "combination": "t1", "region": "WT", "convention": "challenge"}
                | {"dice": dice, "method": method}
                for patient, case, dice in cases
            ]
        )

    both = pd.concat([rows("a", 0.5, 0.5), rows("b", 0.6, 0.2)])
    alike, pooled = (compare_methods(both, ["dice"], pooled=pooled).iloc[0] for pooled in (False, True))
    assert alike["mean_difference"] == pytest.approx((0.1 - 0.3) / 2)
    means = [bootstrap_mean(own["dice"], own["patient"].to_numpy()).mean for _, own in both.groupby("method")]
    assert pooled["mean_difference"] == pytest.approx(means[1] - means[0])
    assert (pooled["low"], pooled["high"]) == (pytest.approx(-0.3), pytest.approx(0.1))
    assert alike["p_value"] == pooled["p_value"]


@pytest.mark.parametrize("n", range(2, 12))
def test_the_mean_of_equal_values_lies_within_its_interval(n):
    mean, low, high, _ = bootstrap_mean([2 / 3] * n)
    assert low <= mean <= high
