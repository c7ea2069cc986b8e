"""py-tetrad #36: data would not load; the usual reason is a delimiter behind the last name."""

from __future__ import annotations

import pytest

from causal_lvlm.cli.tables import read_text


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_delimiter_behind_the_names(tmp_path, delimiter):
    path = tmp_path / "data.txt"
    path.write_text("x,y,\n1.5,2\n3,1\n".replace(",", delimiter))
    loaded = read_text(path)
    assert loaded.names == ("x", "y") and loaded.values.tolist() == [[1.5, 2], [3, 1]]
    assert any("line of names" in note for note in loaded.notes)
