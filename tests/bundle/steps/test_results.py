import json

import torch

from monai_passion.bundle.steps import describe_run, keep_summary, training_data
from monai_passion.errors import ResourceError
from monai_passion.networks.weights import save_weights


def test_the_scores_of_phantoms_say_so_and_those_of_unknown_data_say_nothing(brats, tmp_path):
    weights = tmp_path / "model.safetensors"
    save_weights(torch.nn.Linear(1, 1), weights, {})
    items = training_data(str(brats), "brats_mri", str(tmp_path / "run"))["validation"]
    for known in ("", "phantom"):
        if known:
            (brats / "phantom.json").write_text("{}")
        describe_run(str(tmp_path), str(tmp_path), str(weights), None, "validation", "brats_mri", str(brats), items)
        assert json.loads((tmp_path / "run.json").read_text())["data"] == known


def test_the_summary_beside_weights_is_of_most_patients_and_costs_no_evaluation(tmp_path, caplog, monkeypatch):
    weights, out = tmp_path / "w" / "model.pt", tmp_path / "out"
    weights.parent.mkdir()
    out.mkdir()
    weights.write_bytes(b"x")

    def keep(n, split="test", combinations=("t1", "t1+t2")):
        rows = [{"n": n, "combination": name} for name in combinations]
        (out / "summary.json").write_text(json.dumps({"results": rows}))
        keep_summary(str(out), str(weights), split)
        return json.loads((weights.parent / "summary.json").read_text())["results"][0]["n"]

    assert [keep(2), keep(1), keep(3), keep(5, "training")] == [2, 2, 3, 3]
    assert "is of more patients" in caplog.text
    assert keep(4, combinations=["t2"]) == 3
    assert "is of more combinations" in caplog.text
    weights.write_bytes(b"others")
    assert keep(1) == 1

    def refuse(*_, **__):
        raise ResourceError("cannot write there")

    monkeypatch.setattr("monai_passion.bundle.steps.results.write_text", refuse)
    assert keep(9) == 1
    assert "predict will not tell these results" in caplog.text


def test_no_summary_is_kept_of_patients_whom_the_weights_may_have_learned_from(tmp_path, caplog):
    weights, out = tmp_path / "w" / "model.pt", tmp_path / "out"
    weights.parent.mkdir()
    out.mkdir()
    weights.write_bytes(b"x")
    item = {"case": "A", "patient": "A", "group": "", "image": {"t1": "a.nii"}}
    lists = {"task": "brats_mri", "modalities": ["t1"], "training": [item], "validation": [], "test": []}
    (weights.parent / "datalist.json").write_text(json.dumps(lists))
    for patient, kept in (("A", False), ("B", True)):
        columns = "case,patient,combination,region,convention,dice,hd95,assd,nsd,predicted_ml,reference_ml,ece"
        (out / "metrics.csv").write_text(f"{columns}\nc,{patient},t1,WT,challenge,1,0,0,1,1,1,0\n")
        (out / "summary.json").write_text(json.dumps({"results": [{"n": 1}]}))
        keep_summary(str(out), str(weights), "test")
        assert (weights.parent / "summary.json").exists() == kept
    assert "A may be of their training" in caplog.text
    (weights.parent / "datalist.json").write_text("of something else")
    keep_summary(str(out), str(weights), "test")  # which costs no evaluation
    assert "datalist.json is not JSON" in caplog.text
