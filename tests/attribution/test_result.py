"""The result object: order of units, picture, file; and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import numpy.testing as npt
import pytest

from causal_lvlm.attribution import Attribution
from causal_lvlm.errors import OutputError
from causal_lvlm.methods import attribute
from causal_lvlm.tokens import Target, Units, candidate_units


def make(scores):
    target = Target((12,), (12,), "dark")
    return Attribution("attention", scores, target, {}, 1, 0, 0.1, "fake")


def test_ranking_sums_members_and_breaks_ties_by_index():
    units = Units(((0,), (1, 2), (3,), (4, 5)), ("image",) * 4)
    assert make([0.5, 0.4, 0.3, 0.5, 0.1, 0.1]).ranking(units) == (1, 0, 2, 3)
    assert make(np.zeros(6)).ranking(units) == (0, 1, 2, 3)


def test_ranking_is_a_permutation_of_candidate_units(trace):
    result = attribute(trace, "red", "chain")
    units = candidate_units(trace.layout, result.target, pool=2)
    ranking = result.ranking(units)
    assert sorted(ranking) == list(range(len(units)))
    sums = [result.scores[list(units.members[u])].sum() for u in ranking]
    assert sums == sorted(sums, reverse=True)


def test_image_map(trace):
    scores = np.arange(15.0)
    npt.assert_array_equal(make(scores).image_map(trace.layout), [[2, 3, 4], [5, 6, 7]])
    with pytest.raises(ValueError, match="has 1"):
        make(scores).image_map(trace.layout, 1)
    with pytest.raises(ValueError, match="15 positions but the scores 14"):
        make(scores[:14]).image_map(trace.layout)


def test_scores_are_read_only_and_one_axis(trace):
    with pytest.raises(ValueError, match="read-only"):
        attribute(trace, "red", "attention").scores[0] = 1
    with pytest.raises(ValueError, match="one axis"):
        make(np.zeros((2, 2)))


def test_save_and_load(trace, tmp_path):
    result = attribute(trace, "dark red", "attention", head=np.int64(1), layer=0)
    path = result.save(tmp_path / "a" / "attribution.json")
    loaded = Attribution.load(path)
    assert loaded.to_dict() == result.to_dict()
    assert loaded.target == result.target
    assert loaded.parameters == {"layer": 0, "head": 1, "row": "predictor"}
    npt.assert_array_equal(loaded.scores, result.scores)
    assert "numpy" in loaded.versions


def test_load_refuses_other_files(trace, tmp_path):
    path = attribute(trace, "red", "attention").save(tmp_path / "attribution.json")
    value = json.loads(path.read_text())
    del value["target"]
    path.write_text(json.dumps(value))
    with pytest.raises(OutputError, match="no complete attribution"):
        Attribution.load(path)
    path.write_text('{"kind": "explanation"}')
    with pytest.raises(OutputError, match="explanation"):
        Attribution.load(path)
    with pytest.raises(OutputError):
        Attribution.load(tmp_path / "missing.json")


def test_import_needs_no_torch():
    code = (
        "import sys, causal_lvlm.attribution; "
        "print([m for m in ('torch', 'transformers', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_new_fields_survive_saving_and_old_files_can_still_be_read(trace, tmp_path):
    target = Target((12,), (12,), "dark")
    full = Attribution(
        "random", np.arange(3.0), target, {}, 5, 2, 0.1, "fake",
        units_name="block:2", seed=3, peak_memory=1024, notes=("gap 0.1",),
        standard_error=np.ones(3),
    )  # fmt: skip
    loaded = Attribution.load(full.save(tmp_path / "new.json"))
    assert loaded.to_dict() == full.to_dict()
    assert (loaded.units_name, loaded.seed, loaded.peak_memory) == ("block:2", 3, 1024)
    assert loaded.notes == ("gap 0.1",) and loaded.standard_error.tolist() == [1, 1, 1]
    value = full.to_dict()
    for name in ("units", "seed", "peak_memory", "notes", "standard_error"):
        del value[name]
    (tmp_path / "old.json").write_text(json.dumps(value))
    old = Attribution.load(tmp_path / "old.json")
    assert (old.units_name, old.seed, old.peak_memory) == ("patch+token", None, None)
    assert old.notes == () and old.standard_error is None
    with pytest.raises(ValueError, match="standard_error"):
        Attribution("random", np.zeros(3), target, {}, 0, 0, 0.0, "fake", standard_error=np.ones(2))
