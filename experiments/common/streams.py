"""Streams of random numbers: each split of each experiment draws scenes that no other one sees.

The embedded model was trained on stream 1, validated on 2, tested on 3, and its samples are of
stream 4. A stream is used with the experiment's seed, ``default_rng([seed, stream, ...])``. Tuning
and reporting never share one.
"""

from __future__ import annotations

FIRST_LIGHT_DEVELOPMENT = 71_001
FIRST_LIGHT_REPORT = 71_002
SEARCH_REPORT = 71_003
LEADERBOARD = 71_011
LEADERBOARD_MEDIATION = 71_012  # traces that head mediation is learned from
ABLATIONS_TUNE = 71_021
ABLATIONS_REPORT = 71_022
LOCALISATION = 71_041
GRAPH_DEVELOPMENT = 71_051
GRAPH_REPORT = 71_052
