"""What ``causal-lvlm models`` says is what the tests of this folder run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from typer.testing import CliRunner

import causal_lvlm as cl
from causal_lvlm.cli import app
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.families import FAMILIES, TEXT, family_of, family_table
from causal_lvlm.lvlm.types import types_table
from tests.lvlm.families.test_families import case
from tests.lvlm.families.tiny import AVAILABLE, BUILDERS, NEWEST, OLD, is_old, number


def case_family(name: str) -> str:
    """Return the family of a builder that an old version may lack, without building it."""
    return family_of(name).name


def test_every_type_in_the_table_is_run_by_a_test():
    run: dict[str, set[str]] = {}
    for name in AVAILABLE:
        lvlm, _ = case(name)
        run.setdefault(lvlm.family.name, set()).add(lvlm.model.config.model_type)
    table = {row["family"]: set(row["types"]) for row in family_table() if row["tested"]}
    if is_old():  # what is missing there is skipped by name: see OLD in tiny.py
        assert all(run.get(family, set()) <= types for family, types in table.items())
    else:
        assert table == run


def test_the_version_in_the_table_is_not_older_than_the_one_here():
    missing = {case_family(name) for name in OLD if not name.startswith("text_")}
    for row in family_table():
        assert row["tested"] == NEWEST
        assert (row["oldest"] == NEWEST) == (row["family"] in missing)
        assert number(row["tested"]) >= number(transformers.__version__), (
            f"{row['family']} passed with transformers {transformers.__version__}: say so in "
            "causal_lvlm/lvlm/families.py"
        )


@pytest.mark.parametrize("name", BUILDERS)
def test_masking_modes_are_those_that_are_exact(name):
    lvlm, trace = case(name)
    masking = lvlm.family.masking
    if lvlm.family is not TEXT:
        alone = lvlm.only_drop  # some layers mix tokens without attention
        assert ("drop" in masking) == (trace.prepared.drop_is_exact or alone)
        assert ("block" in masking) != alone
    assert ("pixels" in masking) == bool(trace.layout.grids)
    own = type(lvlm.processor).__module__.startswith("transformers.")
    if lvlm.family is not TEXT:
        assert own == lvlm.family.processor.startswith("the real processor")


@pytest.mark.parametrize("name", ["llava", "pixtral", "paligemma", "qwen2_vl", "mllama"])
def test_the_tower_is_followed_where_the_table_says_so(name):
    lvlm, trace = case(name)
    row = next(r for r in family_table() if r["family"] == lvlm.family.name)
    if row["tower"].startswith("relevancy-chain"):
        found = cl.attribute(trace, 1, "relevancy-chain")
        assert found.scores[trace.layout.positions("image")].any()
    else:
        assert row["tower"] == "not mapped: relevancy ends at the image tokens"
        with pytest.raises(UnsupportedModelError, match="stays in the language model"):
            cl.attribute(trace, 1, "relevancy-chain")


def test_the_command_prints_every_family():
    printed = CliRunner().invoke(app, ["models"])
    assert printed.exit_code == 0
    rows = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert rows == family_table()
    assert [row["family"] for row in rows] == [f.name for f in (*FAMILIES, TEXT)]
    for row in rows:
        assert f"{row['family']} (" in printed.stdout and row["mapping"] in printed.stdout
        assert row["masking"] in printed.stdout and row["tower"] in printed.stdout


def test_the_page_of_all_types_is_what_the_command_prints():
    printed = CliRunner().invoke(app, ["models", "--types"])
    assert printed.exit_code == 0
    rows = types_table()
    assert json.loads(CliRunner().invoke(app, ["models", "--types", "--json"]).stdout) == rows
    kinds = {row["type"]: row["what"] for row in rows}
    assert set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) <= set(kinds)
    assert kinds["llava"] == "entry" and kinds["idefics2"] == "no grid"
    why = next(row["why"] for row in rows if row["type"] == "llava")  # two families have the type
    assert "LLaVA-1.5: one square grid" in why and "Pixtral: " in why
    assert kinds["got_ocr2"] == "guessed" and kinds["video_llava"] == "refused"
    if not is_old():
        page = Path(__file__).parents[3] / "docs" / "families.md"
        assert page.read_text(encoding="utf-8") == printed.stdout, (
            "causal-lvlm models --types > docs/families.md"
        )


def test_what_stands_for_an_image_is_read_from_the_processor():
    model, processor = BUILDERS["gemma3"]()
    assert case("gemma3")[0].placeholder == processor.boi_token == "<start_of_image>"
    processor.boi_token = "<image_soft_token>"
    assert LVLM(model, processor).placeholder == "<image_soft_token>"


def test_each_builder_is_served_by_the_family_of_its_type():
    for name in AVAILABLE:
        lvlm, _ = case(name)
        assert family_of(lvlm.model.config) is lvlm.family
        assert lvlm.model.config.model_type in lvlm.family.model_types
