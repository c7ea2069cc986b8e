"""pandas #14124: a delimiter at the end of every data line moved all names by one column.

The reader took the first column for an index and filled the last one with missing values.
"""

from __future__ import annotations

from causal_lvlm.cli.tables import read_text


def test_names_stay_above_their_columns(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("A,B,C\n1,4,7,\n2,5,8,\n3,6,9,\n")
    loaded = read_text(path)
    assert loaded.names == ("A", "B", "C") and loaded.rows is None
    assert loaded.values.tolist() == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]
