"""Probes on disk come back as they were, with their lineage."""

import json
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.probes import probe_files, probing
from actstore.analysis.probes.results import ProbeReport
from actstore.analysis.probes.splits import ProbeSettings
from actstore.errors import MismatchError, UsageError
from tests.analysis import labelled


def report(path: Path, method: str = "logistic") -> ProbeReport:
    if not path.exists():
        labelled.layered(path, {3: 1.0, None: 0.0}, rows=40, width=32)
    with actstore.open(path) as store:
        return probing.probe(
            store,
            settings=ProbeSettings(method=method, folds=2, permutations=2),  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("method", ["logistic", "mean-difference", "ridge", "mlp"])
def test_probes_come_back_as_they_were(tmp_path: Path, method: str) -> None:
    made = report(tmp_path / "s", method)
    probe_files.save(made, tmp_path / "out")
    found = probe_files.load(tmp_path / "out")
    assert [one.probe.place.layer for one in found] == [3, None]
    vectors = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    for one, result in zip(found, made.results, strict=True):
        np.testing.assert_allclose(
            one.probe.scores(vectors), result.probe.scores(vectors), rtol=1e-5
        )
        assert one.lineage["rows_hash"] == result.rows_hash
        assert one.lineage["store_fingerprint"] == made.lineage["store_fingerprint"]
        assert one.lineage["seed"] == 0
        assert "/" not in str(one.lineage["store"])
        assert one.probe.method == method


def test_the_report_is_a_list_of_results(tmp_path: Path) -> None:
    made = report(tmp_path / "s")
    probe_files.save(made, tmp_path / "out")
    entries = json.loads((tmp_path / "out/report.json").read_text())
    assert [entry["layer"] for entry in entries] == [3, None]
    first = entries[0]
    assert {"site", "pooling", "auroc", "auroc_interval", "accuracy", "rows"} <= set(first)
    low, high = first["auroc_interval"]
    assert low <= first["auroc"] <= high
    assert first["baselines"]["majority_accuracy"] == 0.5
    assert first["baselines"]["permutation"]["runs"] == 2
    assert (tmp_path / "out" / first["probe"]).is_file()
    import pandas as pd

    scores = pd.read_csv(tmp_path / "out" / first["scores"])
    assert len(scores) == first["rows"] == 40
    assert (scores["std_score"] == 0).all()
    assert (tmp_path / "out/probe_stats_layerunknown.csv").is_file()


def test_equal_runs_write_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        probe_files.save(report(tmp_path / "s"), tmp_path / name)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert (
            path.read_bytes()
            == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )


def test_sites_and_poolings_have_their_own_folders(tmp_path: Path) -> None:
    report(tmp_path / "s")
    labelled.layered(tmp_path / "s", {3: 1.0}, rows=40, width=16, site="mlp_out")
    probe_files.save(report(tmp_path / "s"), tmp_path / "out")
    assert (tmp_path / "out/mlp_out-last/probe_stats_layer3.csv").is_file()
    assert (tmp_path / "out/probes/resid_post-last/layer_3.safetensors").is_file()
    assert len(probe_files.load(tmp_path / "out")) == 3


def test_what_is_no_probe_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(UsageError, match="no probes here"):
        probe_files.load(tmp_path)
    save_file({"weight": np.ones(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="is no probe"):
        probe_files.load(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"short")
    with pytest.raises(UsageError, match="cannot be read"):
        probe_files.load(tmp_path / "x.safetensors")


def test_another_width_is_refused(tmp_path: Path) -> None:
    probe = report(tmp_path / "s").results[0].probe
    probe_files.check_width(probe, 32, "s")
    with pytest.raises(MismatchError, match=r"32 values.*have 16"):
        probe_files.check_width(probe, 16, "s")
