"""Layouts of text files: read right, or refused with the true reason; nothing is lost silently."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from causal_lvlm import cli
from causal_lvlm.cli.tables import read_text
from causal_lvlm.errors import DataError


def read(tmp_path, text, header=None, name="data.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_text(path, header)


NUMBERS = [[1.5, 4.0], [2.0, 5.25], [7.0, 6.0]]
SAME = {
    "plain": "a,b\n1.5,4\n2,5.25\n7,6\n",
    "delimiter at the end of the data lines": "a,b\n1.5,4,\n2,5.25,\n7,6,\n",
    "delimiter at the end of some lines": "a,b\n1.5,4,\n2,5.25\n7,6\n",
    "delimiter at the end of the line of names": "a,b,\n1.5,4\n2,5.25\n7,6\n",
    "delimiters at the end of all lines": "a,b,,,\n1.5,4,,,\n2,5.25,,,\n7,6,,,\n",
    "tab at the end": "a\tb\n1.5\t4\t\n2\t5.25\t\n7\t6\t\n",
    "delimiters at both ends": "|a|b|\n|1.5|4|\n|2|5.25|\n|7|6|\n",
    "pipes": "a|b\n1.5|4\n2|5.25\n7|6\n",
    "semicolons": "a;b\n1.5;4\n2;5.25\n7;6\n",
    "semicolons and decimal commas": "a;b\n1,5;4\n2;5,25\n7;6\n",
    "tabs and decimal commas": "a\tb\n1,5\t4\n2\t5,25\n7\t6\n",
    "white space and decimal commas": "a  b\n1,5 4\n2  5,25\n 7 6\n",
    "quoted decimal commas": 'a,b\n"1,5",4\n2,"5,25"\n7,6\n',
    "quoted numbers": '"a","b"\n"1.5","4"\n"2","5.25"\n"7","6"\n',
    "sep=": "sep=;\na;b\n1.5;4\n2;5.25\n7;6\n",
    "quoted sep=, Windows line ends": '"sep=|"\r\na|b\r\n1.5|4\r\n2|5.25\r\n7|6\r\n',
    "line ends of old Macs": "a,b\r1.5,4\r2,5.25\r7,6\r",
    "comments": "# made, on Monday\n\na,b\n1.5,4\n# skip\n2,5.25\n7,6\n# end\n",
    "comments of other languages": "// x, y, z\n% p\na,b\n1.5,4\n2,5.25\n7,6\n",
    "names in a comment": "# a b\n1.5 4\n2 5.25\n7 6\n",
    "names behind a sharp": "#a,b\n1.5,4\n2,5.25\n7,6\n",
    "blank lines": "\n\na,b\n1.5,4\n\n2,5.25\n   \n7,6\n\n",
    "byte order mark": "\ufeffa,b\n1.5,4\n2,5.25\n7,6\n",
    "UTF-16": "a,b\n1.5,4\n2,5.25\n7,6\n".encode("utf-16"),
    "UTF-16 without mark": "a,b\n1.5,4\n2,5.25\n7,6\n".encode("utf-16-le"),
    "big-endian UTF-16 without mark": "a,b\n1.5,4\n2,5.25\n7,6\n".encode("utf-16-be"),
    "UTF-32": "a,b\n1.5,4\n2,5.25\n7,6\n".encode("utf-32"),
    "lines of delimiters": "a,b\n1.5,4\n,\n2,5.25\n7,6\n,\n,\n",
    "column without name and values": "a,,b\n1.5,,4\n2,,5.25\n7,,6\n",
    "blanks behind the commas": "a, b\n1.5, 4\n2, 5.25\n7, 6\n",
    "aligned behind the commas": "a,   b\n1.5, 4\n2,   5.25\n7,   6\n",
    "a sign from a word processor": "a,b\n1.5,4\n2,5.25\n7,+6\n",
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_numbers_in_every_layout(tmp_path, kind, capsys):
    loaded = read(tmp_path, SAME[kind])
    assert loaded.names == ("a", "b") and loaded.rows is None
    np.testing.assert_allclose(loaded.values, NUMBERS)
    said = capsys.readouterr().err.splitlines()
    assert said == list(loaded.notes)  # whatever is noted is said
    plain = ("plain", "pipes", "semicolons", "quoted numbers", "blank lines", "byte order mark")
    assert kind not in plain or not said


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a;b\n1,234;5.5\n2,345;6\n", [[1234, 5.5], [2345, 6]]),
        ('a,b\n"1,234,567",5\n"2,345",6\n', [[1234567, 5], [2345, 6]]),
        ("a;b\n1.234,5;3\n1.111;2\n", [[1234.5, 3], [1111, 2]]),
        ("a;b\n1 234,5;3\n1\u00a0111;2\n", [[1234.5, 3], [1111, 2]]),
        ("a,b\n1'234.5,3\n1\u202f111,2\n", [[1234.5, 3], [1111, 2]]),
        ("a,b\n\u22121.5,3\n1e3,-2E-1\n", [[-1.5, 3], [1000, -0.2]]),
        ("a;b\n0,941;3\n2;5\n", [[0.941, 3], [2, 5]]),
        ("a;b\n1.234;187\n12.500;3\n", [[1.234, 187], [12.5, 3]]),
        ("a;b\n1.234;187\n987;3\n12.5;4\n", [[1.234, 187], [987, 3], [12.5, 4]]),
        ("a;b\n0.500;187\n987;3\n", [[0.5, 187], [987, 3]]),
    ],
)
def test_signs_inside_numbers(tmp_path, text, want):
    np.testing.assert_allclose(read(tmp_path, text).values, want)


def test_words_for_missing_values(tmp_path):
    words = ["NA", "n/a", "#N/A", "NaN", "null", "None", "?", "<NA>", "", "-nan", "#NA"]
    lines = ["a,b", *(f"{word},{k}" for k, word in enumerate(words)), "1,2"]
    loaded = read(tmp_path, "\n".join(lines))
    assert np.isnan(loaded.values[:-1, 0]).all() and len(loaded.values) == len(words) + 1


ROWS = {
    "from 0, as pandas writes": (",a,b\n0,1,4\n1,2,5\n2,7,6\n", ("0", "1", "2")),
    "from 1": (",a,b\n1,1,4\n2,2,5\n3,7,6\n", ("1", "2", "3")),
    "shuffled": (",a,b\n2,1,4\n0,2,5\n1,7,6\n", ("2", "0", "1")),
    "as R writes": ('"a","b"\n"1",1,4\n"2",2,5\n"3",7,6\n', ("1", "2", "3")),
    "as R writes, in semicolons": ('"a";"b"\n"x";1,0;4\n"y";2;5\n"z";7;6,0\n', ("x", "y", "z")),
    "text": ("a,b\nrome,1,4\noslo,2,5\nrome,7,6\n", ("rome", "oslo", "rome")),
    "dates": (",a,b\n2024-01-01,1,4\n2024-01-02,2,5\n2024-01-03,7,6\n",
              ("2024-01-01", "2024-01-02", "2024-01-03")),
    "below years": (",2001,2002\nrome,1,4\noslo,2,5\nbonn,7,6\n", ("rome", "oslo", "bonn")),
    "and delimiters at the end of tabs": (
        "a\tb c\n1\t1,0\t4\t\n2\t2\t5,0\t\n3\t7\t6\t\n", ("1", "2", "3")),
    "of white space and decimal commas": ("a\nx 1,0\ny 2,5\n", ("x", "y")),
    "and delimiters at the end": ("a,b\nx,1,4,\ny,2,5,\nz,7,6,\n", ("x", "y", "z")),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_names_of_rows_are_left_out_and_that_is_said(tmp_path, kind, capsys):
    text, rows = ROWS[kind]
    loaded = read(tmp_path, text)
    want = [[1], [2.5]] if len(rows) == 2 else [[1, 4], [2, 5], [7, 6]]
    assert loaded.rows == rows and len(loaded.names) == len(want[0])
    np.testing.assert_allclose(loaded.values, want)
    assert f"the first column ({', '.join(rows)}) was left out" in capsys.readouterr().err
    assert any("was left out" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n0,9417,-68\n1,22,5\n0,5,7\n", ("2 names for 3 columns", "names of rows", "0,9417")),
        ("a,b\n0,5,1,5\n2,5,3,5\n", ("2 names for 4 columns", "semicolons")),
        ("x\n1,5\n2,5\n4,5\n", ("1 names for 2 columns", "decimal sign")),
        ("1,2\n1,2,5\n", ("fields", "semicolons")),
        ("3,18\n-0,94\n2,8\n", ("'-0' in line 2", "decimal comma")),
        ("3,18\n1,05\n2,8\n", ("'05' in line 2", "decimal comma")),
        (",a,b\n3.5,1,4\n2,2,5\n9,7,6\n", ("has no name", "3.5, 2, 9", "variable")),
        (",a,b\n3,1,4\n7,2,5\n9,7,6\n", ("neither text nor distinct consecutive",)),
        ("a,b,c,d\n1,2,3\n4,5,6\n", ("4 names for 3 columns",)),
        ("a,,c\n1,2,3\n4,5,6\n", ("column 2", "has no name")),
        ("a;b\n1,234;5\n2,345;6\n", ("'1,234'", "1.234 (decimal comma)", "1234")),
        ("a;b\n1.234;2\n987;4\n12.500;7\n", ("'12.500' beside '987'", "12.5 (decimal", "12500")),
        ("a,b\n1.234,2\n150,4\n2.010,7\n", ("'2.010' beside '150'",)),
        ("a;b\n1,5;3.5\n2,5;4\n", ("'1,5' has a decimal comma", "'3.5' has not")),
        ("a;b\n1,5;3.500\n2,5;4\n", ("'3.500' beside '1,5'",)),
        ("a;b\n1,2\n3,4\n7,8\n", ("line 1", "by ';'", "by ','")),
        ("a;b;c\n1,2,3\n4,5,6\n", ("line 1", "by ';'", "by ','")),
        ("a b c\n1.0\n0.5 1.0\n0.2 0.3 1.0\n", ("lower half",)),
        ('a,b\n"1,2\n3,4\n', ("a quote is not closed",)),
        ("#a,b\n#1,2\n", ("no line that is no comment",)),
        ("", ("holds no line",)),
        (",,\n,,\n", ("holds no line",)),
        ("2024-01-01,1,2\n2024-01-02,3,4\n", ("--header or --no-header",)),
        ("a,a\n1,x\n2,y\n", ("same name",)),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, text, words):
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("number", ["1_000", "1_0", "\u0661\u0662", "0x10", "5%", "1.2.3", "1,,2"])
@pytest.mark.parametrize("place", [0, 2])
def test_what_is_no_number_is_named_where_it_stands(tmp_path, number, place):
    fields = ["1", "2", "5", "4"]
    fields[place] = number
    text = "a;b\n" + "".join(f"{field};{k}\n" for k, field in enumerate(fields))
    (tmp_path / "data.csv").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(cli.app, ["learn", str(tmp_path / "data.csv")])
    assert result.exit_code == 2 and f"such as {number!r} in row {place}" in result.stderr


def test_a_number_with_an_underscore_makes_no_header(tmp_path):
    loaded = read(tmp_path, "1_000,2\n3,4\n")
    assert loaded.values["0"].tolist() == ["1_000", 3.0]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"PK\x03\x04abc", "Excel"), (b"\x1f\x8b\x08", "gzip"), (b"PAR1abc", ".parquet"),
        (b"\x93NUMPY", ".npy"), (b'{"a": [1, 2]}', "JSON"), (b"a,b\n1,\x00\n", "control"),
        (b"a,b\n\x81\x8d,1\n", "UTF-8"), (b"\xff\xfea", "UTF-16"), (bytes(range(256)), "UTF-8"),
    ],
)  # fmt: skip
def test_files_of_other_kinds_are_called_by_their_kind(tmp_path, data, word):
    with pytest.raises(ValueError, match=word):
        read(tmp_path, data)


def test_names_in_windows_1252(tmp_path, capsys):
    loaded = read(tmp_path, "größe,b\n1,2\n3,4\n".encode("cp1252"))
    assert loaded.names == ("größe", "b") and "Windows-1252" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["my value\n1\n2\n", "my value;\n1\n2\n", "my value,\n1,\n2,\n"])
def test_one_column_whose_name_holds_blanks(tmp_path, text):
    assert read(tmp_path, text).names == ("my value",)


def test_a_named_index_stays_and_is_said(tmp_path, capsys):
    loaded = read(tmp_path, "id,a\n1,4\n2,9\n3,1\n")
    assert loaded.names == ("id", "a") and "counts the rows" in capsys.readouterr().err
    assert read(tmp_path, "t,a\n1,4\n2,9\n3,1\n").notes == ()


def test_the_result_keeps_what_was_left_out(tmp_path):
    """In the JSON as on stderr, once in each."""
    rng = np.random.default_rng(0)
    lines = [",a,b", *(f"{k},{x:.3f},{y:.3f}" for k, (x, y) in enumerate(rng.normal(size=(9, 2))))]
    (tmp_path / "data.csv").write_text("\n".join(lines), encoding="utf-8")
    result = CliRunner().invoke(cli.app, ["learn", str(tmp_path / "data.csv"), "--json"])
    (note,) = json.loads(result.stdout)["summary"]["notes"]
    assert "was left out" in note and result.stderr.splitlines() == [note]
