"""What ``docs/architecture.md`` says and shows is so."""

from __future__ import annotations

import re
from pathlib import Path

from tests.architecture import FLOW, PICTURE, drawn, rooms
from tests.test_layers import ROOMS

PAGE = PICTURE.with_name("architecture.md")
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_picture_shows_the_rooms_and_imports_of_today():
    nodes, edges = drawn(PICTURE.read_text(encoding="utf-8"))
    now = rooms()
    stale = "the picture is stale: run python -m tests.architecture"
    assert nodes == set(now.nodes) == {room.name for room in ROOMS}, stale
    assert edges == set(now.edges), stale


def test_what_is_handed_on_goes_to_a_room_that_imports_the_giver_or_across_the_seam():
    knows = {room.name: room.knows for room in ROOMS}
    inside = [(giver, taker) for giver, taker, _ in FLOW if {giver, taker} <= set(knows)]
    assert len(inside) == 5
    for giver, taker in inside:
        assert giver in knows[taker] or "lvlm" in (giver, taker)
    for name in ("core", "structure", "attribution", "explanation", "metrics"):
        assert "lvlm" not in knows[name]


def test_the_examples_of_the_page_run_and_print_what_it_shows(capsys):
    code = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL)
    assert len(code) == 4 == TEXT.count("```python")
    names: dict[str, object] = {"__name__": "architecture"}
    for block, shown in code:
        exec(compile(block, PAGE.name, "exec"), names)
        assert capsys.readouterr().out == shown


def test_links_and_files_that_the_page_names_are_there():
    root = PAGE.parents[1]
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT)]
    files = re.findall(r"`((?:causal_lvlm|tests)/[\w/.]+)`", TEXT)
    inside = re.findall(r"`(\w+\.py)`", TEXT)
    missing = [link for link in links if not (PAGE.parent / link).exists()]
    missing += [file for file in files if not (root / file).exists()]
    missing += [name for name in inside if not (root / "causal_lvlm" / name).exists()]
    assert links and files and inside and not missing
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "docs/architecture.md" in Path(root / page).read_text(encoding="utf-8"), page
