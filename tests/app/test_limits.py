"""What pages may use together: memory of pictures, and room on the disk."""

from __future__ import annotations

import base64
import io
import json
import os
import resource
import sys
import time

import pytest
from PIL import Image

from causal_lvlm.app import Limits, Workbench
from causal_lvlm.app.export import export
from causal_lvlm.app.models import ModelShelf
from causal_lvlm.app.turns import BusyError
from causal_lvlm.errors import OutputError
from tests.app.conftest import last


def small(lvlm, **limits):
    return Workbench(ModelShelf(load=lambda name: lvlm), Limits(**limits))


@pytest.fixture(scope="module")
def saved(lvlm, samples, tmp_path_factory):
    import causal_lvlm

    trace = lvlm.run(*samples["colour"])
    found = causal_lvlm.explain(trace, 0, max_runs=20, n_random=0)
    return found.save(tmp_path_factory.mktemp("saved") / "e.json")


def peak():
    """Return the largest memory that this process ever had, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used / 1e3


def test_sixty_copies_of_a_large_picture_are_refused_before_they_fill_the_memory(
    lvlm, saved, tmp_path
):
    stream = io.BytesIO()
    Image.new("1", (5000, 5000)).save(stream, "PNG")
    picture = base64.b64encode(stream.getvalue()).decode()
    value = json.loads(saved.read_text("utf-8"))
    value["trace"]["more_images"] = [picture] * 60
    bomb = tmp_path / "bomb.json"
    bomb.write_text(json.dumps(value))
    assert bomb.stat().st_size < 1_000_000
    before = peak()
    with small(lvlm) as bench:
        page = bench.session("a")
        with pytest.raises(OutputError, match="picture"):
            last(page.open_file(bomb))
        last(page.open_file(saved))
    assert peak() - before < 300  # decoded, each takes 75 MB


def test_the_pictures_of_all_pages_are_bounded(lvlm, samples, tmp_path):
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    with small(lvlm, pixels=25_000) as bench:
        pages = [bench.session(name) for name in "abc"]
        for page in pages[:2]:
            page.image = page.take_image(tmp_path / "a.png")
        assert [page.pixels() for page in pages] == [10_000, 10_000, 0]
        with pytest.raises(BusyError, match="million pixels"):
            pages[2].take_image(tmp_path / "a.png")
        bench.close_session("a")
        pages[2].take_image(tmp_path / "a.png")


def test_a_page_drops_old_runs_for_the_memory_of_their_pictures(lvlm, samples):
    picture, question = samples["colour"]
    size = picture.width * picture.height
    with small(lvlm, runs=4, page_pixels=5 * size) as bench:
        page = bench.session("a")
        for number in range(4):
            other = picture.copy()  # each question is about a picture of its own
            last(page.ask(other, question, max_new_tokens=1))
            assert page.pixels() <= 5 * size, number
        assert 1 <= len(page.runs.kept) < 4 and page.runs.asked().number == 4
        assert page.runs.asked().trace.images[0].size == picture.size


def test_what_was_handed_out_is_removed_with_its_run_and_bounded(lvlm, samples):
    with small(lvlm, runs=2, page_disk=400_000) as bench:
        page = bench.session("a")
        for _ in range(3):
            asked = last(page.ask(*samples["colour"], max_new_tokens=1))[0].value
            written = export(page, asked, "numbers")
            assert all(path.is_file() for path in written)
        folders = sorted(path.name for path in page.folder.iterdir())
        assert folders == ["export-2", "export-3"]
        for path in page.runs.exported(2).iterdir():
            path.write_bytes(b"x" * 600_000)
            os.utime(path, (time.time() - 1000,) * 2)
        export(page, asked, "numbers")
        assert not list(page.runs.exported(2).iterdir())
        for path in page.runs.exported(3).iterdir():
            path.write_bytes(b"x" * 600_000)  # fresh
        with pytest.raises(BusyError, match="no room"):
            export(page, asked, "numbers")


def test_a_page_hands_in_so_many_files_and_no_more(lvlm, saved, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with small(lvlm, uploads=2) as bench:
        page, other = bench.session("a"), bench.session("b")
        page.take_image(tmp_path / "a.png")
        last(page.open_file(saved))
        with pytest.raises(BusyError, match="ten minutes"):
            page.take_image(tmp_path / "a.png")
        with pytest.raises(BusyError, match="ten minutes"):
            last(page.open_file(saved))
        other.take_image(tmp_path / "a.png")


def test_folders_of_servers_that_were_killed_are_removed_and_no_others(lvlm, tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, foreign = tmp_path / "causal-lvlm-app-dead", tmp_path / "causal-lvlm-app-foreign"
    for folder in (dead, foreign):
        (folder / "gradio").mkdir(parents=True)
    (dead / "lock").touch()
    with small(lvlm) as first, small(lvlm) as second:
        assert not dead.exists() and foreign.exists()
        assert first.folder.exists() and second.folder.exists()
    assert list(tmp_path.iterdir()) == [foreign]
