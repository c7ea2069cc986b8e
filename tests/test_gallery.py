"""The gallery: the page says what its JSON says, and the JSON what the model says."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from causal_lvlm.storage import to_jsonable, write_json
from causal_lvlm.tiny import sample_inputs
from experiments.common.tables import filled, rounded
from experiments.gallery import entries, page, run, screenshots

AGAIN = "stale: run python -m experiments.gallery.run"


@pytest.fixture(scope="module")
def saved():
    return json.loads((page.RESULTS / "gallery.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def text():
    return page.PAGE.read_text(encoding="utf-8")


def test_the_page_says_what_the_json_says(saved, text):
    assert filled(text, page.texts(saved)) == text, AGAIN + " --render"
    assert saved["command"] in text


def test_every_number_of_the_page_hangs_on_the_json(saved, text):
    """Change each entry's numbers: the page must change with them."""
    for name, entry in saved["entries"].items():
        other = json.loads(json.dumps(saved))
        for item in (other["entries"][name], *other["entries"][name].get("sides", ())):
            item["sets"] = {
                scope: {**found, "runs": found["runs"] + 1, "set": ["[9,9]"]}
                for scope, found in item.get("sets", {}).items()
            }
            for row in item.get("methods", ()):
                row["p"] = 0.987
                row["metrics"] = [0.987] * len(row.get("metrics", ()))
        assert page.texts(other)[name] != page.texts(saved)[name], (name, entry)


def test_every_picture_is_shown_with_words_and_small(text):
    shown = dict((file, alt) for alt, file in re.findall(r"!\[([^\]]*)\]\(results/([^)]+)\)", text))
    files = {p.name: p.stat().st_size for p in page.RESULTS.glob("*.png")}
    assert set(shown) == set(files)
    assert all(len(alt) > 40 for alt in shown.values())
    assert max(files.values()) < 200_000 and sum(files.values()) < 1_500_000
    # Each has a caption below it.
    assert len(re.findall(r"\.png\)\n\n\*\S", text)) == len(shown)


def test_links_of_the_page_lead_somewhere(text):
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.PAGE.parent / link).exists(), link


def test_the_titles_of_the_entries_are_true(saved):
    """The text around the numbers is written by hand; here is what it takes for granted."""
    found = saved["entries"]
    spoon = found["hallucination"]
    sample = next(s for s in sample_inputs() if s.hallucination)
    assert "spoon" in spoon["answer"].split() and "spoon" not in sample.answer.split()
    assert spoon["true"] == sample.answer and spoon["denied"] == "no"
    assert spoon["sets"]["joint"]["verified"] and all(spoon["written"])
    assert spoon["whole_image"]["says"] == "spoon"
    assert spoon["sets"]["image"]["verified"]  # a part of the image changes it, the whole does not
    assert any(not row["changed"] for row in spoon["methods"])
    several = found["several"]
    assert len([n for n in several["sets"]["joint"]["set"] if n.startswith("[")]) > 1
    assert several["target"] == several["answer"].split()[-1]
    for entry in (found["methods"], found["loses"], spoon):
        size = entry["size"]
        assert {len(row["top"]) for row in entry["methods"]} == {size}
    one, two = found["questions"]["sides"]
    assert one["sets"]["image"]["set"] != two["sets"]["image"]["set"]
    place = found["loses"]["metrics"].index(entries.RULE)
    mine, other = found["loses"]["methods"]
    assert mine["method"] == "causal" and mine["metrics"][place] > other["metrics"][place]


def test_the_failure_is_the_one_that_the_rule_picks_on_the_leaderboard_of_today(saved):
    chosen = rounded(to_jsonable(entries.worst_case()))
    assert saved["entries"]["loses"]["rule"] == chosen, AGAIN


def test_the_page_says_where_the_leaderboard_measured_something_else(saved):
    entry = json.loads(json.dumps(saved["entries"]["loses"]))
    place = entry["metrics"].index(entries.RULE)
    for row in entry["methods"]:
        row["metrics"][place] = entry["rule"]["leaderboard"][row["method"]][entries.RULE]
    assert "changed since" not in page.loses(entry)
    entry["methods"][0]["metrics"][place] += 0.03
    assert "changed since" in page.loses(entry)


def test_the_rule_takes_the_largest_gap_among_maskable_targets_and_the_first_of_equals(tmp_path):
    columns = ["deletion", "insertion", "comprehensiveness", "sufficiency"]
    config = {
        "methods": ["a", "b", "slow", "causal", "random"], "columns": columns, "costly": ["slow"],
        "seed": 3,
    }  # fmt: skip

    def line(key, maskable, **deletion):
        methods = {m: {"values": [v, 0.1, 0.2, 0.3]} for m, v in deletion.items()}
        return {"key": key, "result": {"scene": key, "maskable": maskable, "methods": methods}}

    lines = [
        {"kind": "items", "config": config},
        line(8, True, a=0.5, b=0.2, slow=0.0, causal=0.6, random=0.0),  # 0.4 behind b
        line(4, True, a=0.2, b=0.5, causal=0.6, random=0.9),  # 0.4 behind a, and the first
        line(5, False, a=0.0, b=0.0, causal=1.0, random=0.0),  # nothing to find
        line(6, True, a=0.5, b=0.5, causal=0.1, random=0.0),  # ahead
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    found = entries.worst_case(path)
    assert (found["key"], found["best"], found["targets"], found["behind"]) == (4, "a", 3, 2)
    assert found["gap"] == pytest.approx(0.4) and found["behind_best"] == 2
    assert found["leaderboard"]["causal"]["deletion"] == 0.6


def test_the_course_of_a_curve_is_told_as_it_is():
    assert "never falls below 0.5 (least 0.60)" in page.course([1.0, 0.6, 0.9])
    assert page.course([1.0, 0.4, 0.3]).endswith(
        "1 unit masked and stays there (at most 0.40 later)"
    )
    assert page.course([1.0, 0.4, 0.3, 0.97]) == (
        "falls below 0.5 with 1 unit masked, and is back at 0.97 with 3 masked"
    )


def test_screenshots_that_are_not_taken_again_are_said_to_be_old(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(screenshots, "chromium", lambda: None)
    assert screenshots.take(None, tmp_path, run.save) is None
    assert "Chromium missing" in capsys.readouterr().out
    assert run.earlier_screenshots(tmp_path) is None
    assert "No pictures" in page.screenshots(None)
    shot = {"file": "app", "alt": "the app", "caption": "The app."}
    record = {
        "taken": "2026-01-02", "by_this_run": True, "width": 4, "height": 3, "pictures": [shot],
    }  # fmt: skip
    write_json(tmp_path / "gallery.json", {"kind": "gallery", "screenshots": record})
    old = run.earlier_screenshots(tmp_path)
    assert old == {**record, "by_this_run": False}
    assert "kept from an earlier run with `--screenshots`, 2026-01-02" in page.screenshots(old)
    assert "2026-01-02" not in page.screenshots(record)


def test_a_picture_that_is_too_large_is_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    monkeypatch.setattr(run, "LARGEST", 1000)
    with pytest.raises(ValueError, match="more than the 1,000"):
        run.save(Image.fromarray(noise), tmp_path / "noise.png")
    run.save(Image.new("RGB", (2880, 60), "red"), tmp_path / "wide.png")
    with Image.open(tmp_path / "wide.png") as kept:
        assert kept.size == (1440, 30)


def test_small_areas_keep_their_colour_in_256_colours():
    sample = next(s for s in sample_inputs() if s.name == "caption")
    with Image.open(sample.image_path) as image:
        drawn = np.asarray(image.convert("RGB").resize((480, 480), Image.Resampling.LANCZOS)).copy()
    drawn[100:102, 100:200], drawn[300:304, 300:304] = (213, 94, 0), (49, 163, 84)

    def worst(reduced):
        return np.abs(np.asarray(reduced.convert("RGB"), dtype=int) - drawn).max()

    picture = Image.fromarray(drawn)
    assert worst(run.reduced(picture)) < 30 < worst(picture.quantize(256, dither=0))


def test_the_page_is_written_without_a_model():
    code = (
        "import sys; from causal_lvlm.storage import read_json; "
        "from experiments.gallery import page, run; "
        "page.texts(read_json(page.RESULTS / 'gallery.json', run.KIND)); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=page.PAGE.parents[2], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_the_hallucination_is_explained_again_with_the_same_set_and_numbers(
    saved, monkeypatch, embedded_model
):
    monkeypatch.setattr(entries, "METHODS", ("attention", "relevancy"))  # others cost 600 runs
    found, pictures = entries.hallucination(entries.Kit(embedded_model, saved["seed"]))
    shown = dict(saved["entries"]["hallucination"])
    shown["methods"] = [r for r in shown["methods"] if r["method"] in entries.METHODS]
    assert pictures.keys() == {"hallucination", "hallucination-maps"}
    close(to_jsonable(found), {k: v for k, v in shown.items() if k != "seconds"})


def close(mine, theirs):
    """Texts, sets and counts must be the same, probabilities nearly."""
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            close(mine[key], value)
    elif isinstance(theirs, list):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            close(a, b)
    elif isinstance(theirs, float):
        assert mine == pytest.approx(theirs, rel=0.02, abs=1e-3)
    else:
        assert mine == theirs
