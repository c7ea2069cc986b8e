"""Damaged files of every kind: read, or refused by an error of this package; never a traceback.

The way goes on behind reading: what a damaged file still says is printed, drawn, compared and saved
again (`tests.damage`).
"""

from __future__ import annotations

import io
import json
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from causal_lvlm.cli.report import read_results
from causal_lvlm.errors import CausalLVLMError, OutputError, StructureError
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.npz import read_array, read_arrays
from causal_lvlm.rasters import check_pictures, decode_images, encode_image
from causal_lvlm.storage import parse_json, read_bytes, write_json
from causal_lvlm.structure.files import read_graph
from tests import damage
from tests.examples import examples
from tests.viz.fakes import fake_explanation, fake_view

KINDS = (
    "explanation", "explanation.npz", "attribution", "metrics", "target-stability",
    "causal-graph", "head-graphs",
    "head-choice", "trace", "structure", "structure.npz", "edge-stability", "edge-stability.npz",
    "null-edges", "null-edges.npz", "pag.json", "marks.json", "pag.graphml", "pag.pcalg",
    "pag.tetrad", "matrix.npy", "matrix.npz", "results.jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return damage.samples(tmp_path_factory.mktemp("saved"))


def test_there_is_one_of_every_kind(files):
    assert set(files) == set(KINDS)
    for kind, (path, read) in files.items():
        assert damage.outcome(read, path) == "loaded", kind


@pytest.mark.parametrize("kind", KINDS)
@examples(3)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_damage_ends_in_a_traceback(files, kind, seed):
    path, read = files[kind]
    whole = path.read_bytes()
    (data,) = damage.changes(path, np.random.default_rng(seed), 1)
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except CausalLVLMError:
        pass
    finally:
        path.write_bytes(whole)


@pytest.mark.slow
def test_a_campaign_of_damage_ends_in_no_traceback():
    """The counts that a change is measured by: ``python -m tests.damage 400``."""
    outcomes = damage.campaign(60)
    assert {k: dict(v) for k, v in outcomes.items() if set(v) - {"loaded", "refused"}} == {}
    refused = sum(found["refused"] for found in outcomes.values())
    assert refused > sum(found.total() for found in outcomes.values()) / 2


# -- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "9" * 400, "-" + "9" * 400, "1e400", "NaN", "[-Infinity]",
     '"\\ud800"', '{"\\udc00": 1}', '{"a": 1, "b": 2, "a": 3}', b"\xff", b"", "\0", "{'a': 1}"],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_json_that_python_would_take_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_whole_pairs_long_numbers_and_a_mark_at_the_beginning_are_json():
    assert parse_json('["\\ud83d\\ude00", 123456789012345678901234567890]')[0] == "😀"
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_what_has_no_end_is_not_read_to_its_end(tmp_path):
    with pytest.raises(OutputError, match="more than"):
        read_bytes("/dev/zero", 1_000)
    for path in (tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(OutputError, match="cannot read"):
            read_bytes(path)


@pytest.fixture(scope="module")
def value():
    return json.loads(json.dumps(fake_explanation(fake_view()).to_dict()))


@pytest.mark.parametrize(
    ("place", "new", "words"),
    [
        (("target", "positions", 0), -1, r"target\.positions\[0\] must be a whole number"),
        (("target", "positions"), [4], "generated tokens"),
        (("sets", "joint", "positions", 0), 10**6, r"sets\.joint\.positions\[0\]"),
        (("sets", "joint", "verified"), "yes", r"sets\.joint\.verified must be true or false"),
        (("sets", "joint", "probability_after"), 7, r"sets\.joint\.probability_after"),
        (("sets", "joint", "units"), [], "other positions than its units"),
        (("sets",), {}, "sets must be an object of 1 or more"),
        (("graphs", 0, "tree", "node", 0), 10**6, r"graphs\[0\]\.tree\.node"),
        (("graphs", 0, "pag", "edges", 0, "source"), -1, "source"),
        (("graphs", 0, "separator_start", 0), 3, "separator_start"),
        (("trace", "token_ids"), None, r"trace\.token_ids"),
        (("trace", "grids", 0, "boxes", 0), [0, 0, 1e9, 1], "far outside"),
        (("trace", "grids", 0, "positions", 0), 10**6, r"trace\.grids\[0\]\.positions"),
        (("trace", "image"), "AAAA", r"trace\.image: this is no picture"),
        (("model_runs",), 2.5, "model_runs must be a whole number"),
        (("seconds",), "9" * 100_000, "seconds must be"),
        (("format",), 2, "format 2, this version reads 1"),
    ],
    ids=lambda part: str(part)[:30],
)  # fmt: skip
def test_the_error_names_the_field_and_is_short(tmp_path, value, place, new, words):
    path = write_json(tmp_path / "e.json", damage.changed(value, place, "replace", new))
    with pytest.raises(OutputError, match=words) as caught:
        Explanation.load(path)
    assert "e.json" in str(caught.value) and len(str(caught.value)) < 600


def test_unknown_fields_of_a_later_version_are_left_out(tmp_path, value):
    later = {**value, "new": 1, "sets": {**value["sets"]}}
    later["sets"]["joint"] = {**later["sets"]["joint"], "newer": [1]}
    again = Explanation.load(write_json(tmp_path / "e.json", later))
    assert again.to_dict() == Explanation.from_dict(value).to_dict()


# -- arrays -------------------------------------------------------------------------------------


def archive(path: Path, name: str = "a.npy", data: bytes | None = None, **options) -> Path:
    stream = io.BytesIO()
    np.save(stream, np.arange(3.0))
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, stream.getvalue() if data is None else data, **options)
    return path


def test_arrays_come_back_as_numpy_wrote_them(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 4)), "b": np.asfortranarray(rng.integers(0, 9, (2, 3))),
        "c": np.array(["x", "yy"]), "d": np.zeros((0, 2), np.int32), "e": np.array(5, np.uint8),
        "f": np.array([(1, 2.0)], dtype=[("k", "<i4"), ("it's", "<f8")]), "g": np.array([True]),
    }  # fmt: skip
    np.savez_compressed(tmp_path / "z.npz", **arrays)
    for name, found in read_arrays(tmp_path / "z.npz").items():
        assert found.dtype == arrays[name].dtype and found.shape == arrays[name].shape
        assert found.tobytes() == arrays[name].tobytes()
        np.save(tmp_path / "one.npy", arrays[name])
        assert read_array(tmp_path / "one.npy").tobytes() == arrays[name].tobytes()


def test_a_header_that_claims_a_huge_array_allocates_nothing(tmp_path):
    header = (
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000,), }".ljust(117) + b"\n"
    )
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
    (tmp_path / "a.npy").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(OutputError, match="64 are there"):
        read_array(tmp_path / "a.npy")
    with pytest.raises(OutputError, match="64 are there"):
        read_arrays(archive(tmp_path / "a.npz", data=data))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["../a.npy", "/etc/a.npy", "x/../../a.npy"])
def test_members_of_other_folders_are_refused(tmp_path, name):
    with pytest.raises(OutputError, match="another folder"):
        read_arrays(archive(tmp_path / "a.npz", name))


def test_objects_bombs_and_strange_compression_are_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(OutputError, match="pickled objects, which are never loaded"):
        read_arrays(archive(tmp_path / "o.npz", data=stream.getvalue()))
    with pytest.raises(OutputError, match="unknown way"):
        read_arrays(archive(tmp_path / "l.npz", compress_type=zipfile.ZIP_LZMA))
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(300_000))
    with pytest.raises(OutputError, match="more than"):
        read_arrays(tmp_path / "b.npz", most=1_000_000)


def test_encrypted_members_are_refused(tmp_path):
    data = bytearray(archive(tmp_path / "e.npz").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "e.npz").write_bytes(data)
    with pytest.raises(OutputError, match="encrypted"):
        read_arrays(tmp_path / "e.npz")


@pytest.mark.parametrize("name", ["../../etc/x.npz", "/etc/x.npz", "", "..", "a\0b", 3, None])
def test_arrays_lie_beside_the_file_that_names_them(tmp_path, value, name):
    path = write_json(tmp_path / "e.json", {**value, "arrays": name})
    with pytest.raises(OutputError, match="beside this one"):
        Explanation.load(path)


# -- graphs -------------------------------------------------------------------------------------

_GRAPHML = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{}</graphml>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_GRAPHML.format('<graph><node id="a"><data key="k">x</data></node></graph>'), "declared"),
        (_GRAPHML.format('<graph edgedefault="directed"><edge source="a"/></graph>'), "target"),
        (_GRAPHML.format("<graph><node/></graph>"), "'id'"),
        (_GRAPHML.format(""), "no <graph>"),
        ('<!DOCTYPE g [<!ENTITY a "b">]>' + _GRAPHML.format("&a;"), "entities"),
        ('<!DOCTYPE g [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + _GRAPHML.format("&a;"),
         "entities"),
        ('<?xml version="1.0" encoding="nonsense"?><graphml/>', "no XML"),
        ("<a>" * 50_000, "no XML"),
    ],
)  # fmt: skip
def test_graphml_with_what_is_no_graph(tmp_path, text, words):
    (tmp_path / "g.graphml").write_text(text)
    with pytest.raises(StructureError, match=words):
        read_graph(tmp_path / "g.graphml")


def test_a_graph_of_a_small_file_takes_no_large_memory(tmp_path):
    nodes = ", ".join(["{}"] * 30_000)
    (tmp_path / "g.json").write_text('{"nodes": [%s], "edges": []}' % nodes)  # noqa: UP031
    with pytest.raises(StructureError, match="30000 nodes is too large"):
        read_graph(tmp_path / "g.json")


# -- pictures -----------------------------------------------------------------------------------


def flat(side: int) -> str:
    return encode_image(Image.new("1", (side, side)))


def never(*_):
    raise AssertionError("decoded")


@pytest.mark.parametrize(
    ("pictures", "words"),
    [([flat(5_000)] * 9, "225 million pixels"), ([flat(1)] * 65, "at most 64"), (["AA"], "no pict"),
     ([flat(4_000)] * 13, "208 million"), ([flat(10), 3], "picture 2"), (["%"], "no picture")],
    ids=["sum", "number", "none", "more", "type", "text"],
)  # fmt: skip
def test_pictures_are_counted_before_any_is_decoded(monkeypatch, pictures, words):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(OutputError, match=words):
        decode_images(pictures)


def test_a_report_of_sixty_large_copies_is_refused_without_decoding(tmp_path, monkeypatch, value):
    trace = {**value["trace"], "more_images": [flat(5_000)] * 60}
    path = write_json(tmp_path / "e.json", {**value, "trace": trace})
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(OutputError, match="million"):
        read_results([path])


def test_the_pictures_of_all_runs_of_a_page_are_summed(tmp_path, monkeypatch, value):
    for number in range(3):
        trace = {**value["trace"], "answer": f"red {number}"}
        write_json(tmp_path / f"{number}.json", {**value, "trace": trace})
    monkeypatch.setattr("causal_lvlm.cli.report.MAX_PIXELS", 2 * 96 * 96)
    with pytest.raises(OutputError, match="several pages"):
        read_results([tmp_path])
    monkeypatch.setattr("causal_lvlm.cli.report.MAX_FILES", 2)
    with pytest.raises(OutputError, match="3 files"):
        read_results([tmp_path])


def test_formats_that_start_programs_are_not_opened():
    import base64

    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    with pytest.raises(OutputError, match="allowed are PNG"):
        check_pictures([base64.b64encode(page).decode()])


def test_texts_of_a_saved_file_are_escaped_in_the_page(tmp_path, value):
    from causal_lvlm.viz.report import report_cases

    evil = "<script>alert(1)</script>"
    trace = {**value["trace"], "prompt": evil, "model_id": evil, "parameters": {evil: evil}}
    trace["tokens"] = [evil if t == "circle" else t for t in trace["tokens"]]
    path = write_json(tmp_path / "e.json", {**value, "trace": trace, "model_id": evil})
    cases, _ = read_results([path])
    page = report_cases(cases, tmp_path / "page.html").read_text(encoding="utf-8")
    assert evil not in page and "&lt;script&gt;" in page


def test_what_was_resampled_is_one_of_the_known_kinds(files):
    path = files["edge-stability"][0]
    whole = path.read_text()
    value = json.loads(whole)
    try:
        path.write_text(damage.dumps(damage.changed(value, ("parameters", "kind"), "replace", "x")))
        with pytest.raises(OutputError, match=r"parameters\.kind"):
            damage.read_stability(path)
    finally:
        path.write_text(whole)
