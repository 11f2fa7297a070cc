import pandas as pd

from monai_passion.reporting.card import card_tables


def row(patient, combination, region, dice, predicted, reference):
    scores = {"dice": dice, "hd95": 4.0, "assd": 1.0, "nsd": 0.5, "predicted_ml": predicted, "reference_ml": reference}
    where = {"case": patient, "patient": patient, "combination": combination, "region": region}
    return {**where, "convention": "challenge", **scores}


def test_the_tables_have_the_means_their_intervals_and_every_case_with_all_sequences():
    rows = [
        row("A", "flair+t1c", "WT", 0.8, 10, 10),  # overlap 8: sensitivity 80 %
        row("A", "flair+t1c", "ET", 0.5, 6, 2),  # overlap 2: 100 %
        row("B", "flair+t1c", "WT", 0.6, 20, 10),  # overlap 9: 90 %
        row("B", "flair+t1c", "ET", 0.0, 3, 0),  # no such tumor: no sensitivity
        row("A", "flair", "WT", 0.4, 10, 10),
        row("A", "flair", "ET", 0.1, 2, 2),
    ]
    ignored = {**row("A", "flair", "WT", 0.9, 1, 1), "convention": "released"}
    lines = card_tables(pd.DataFrame([*rows, ignored]), {"flair": "FLAIR", "t1c": "T1c"}).splitlines()
    assert lines[0].count("|") == 1 + 1 + 4 * 2
    assert lines[2] == "| FLAIR | 40.0 | 10.0 | 4 | 4 | 40 | 10 | 0.0 | 0.0 |"
    assert lines[3] == "| FLAIR + T1c | 70.0 | 25.0 | 4 | 4 | 85 | 100 | 5.0 | 3.5 |"
    assert lines[4] == "| **mean of 2** | 60.0 | 20.0 | 4 | 4 | 70 | 55 | 3.3 | 2.3 |"
    assert "| FLAIR | 40.0, n = 1 | 10.0, n = 1 |" in lines
    assert "| FLAIR + T1c | 70.0 (60.0 to 80.0), n = 2 | 25.0 (0.0 to 50.0), n = 2 |" in lines
    assert lines[-3:] == ["| --- | --- | --- |", "| A | 80.0 | 50.0 |", "| B | 60.0 | 0.0 |"]
