"""r-causal #25: a covariance or correlation matrix instead of data, and nobody found out how."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from causal_lvlm import cli


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_matrix_in_a_file_is_learned_from_as_what_it_is(tmp_path, scale):
    correlation = np.array([[1, 0.6, 0.36], [0.6, 1, 0.6], [0.36, 0.6, 1]]) * scale
    rows = zip("xyz", correlation, strict=True)
    lines = [",x,y,z", *(f"{name},{','.join(map(str, row))}" for name, row in rows)]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    result = CliRunner().invoke(
        cli.app, ["learn", str(tmp_path / "m.csv"), "--n-samples", "500", "--alpha", "0.01"]
    )
    assert ("correlation" if scale == 1 else "covariance") + ", 500 samples" in result.stdout
    assert "x o-o y" in result.stdout and "y o-o z" in result.stdout
