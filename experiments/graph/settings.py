"""What the graph experiment compares, in one place."""

from __future__ import annotations

from typing import Any

BUDGET = 100  # model runs of one graph, or of one baseline order; controls included
N_RANDOM = 20  # random controls of each verified set
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the content edges
RANDOM_DRAWS = 3  # random graphs with the in-degrees of the learned one
LEAST_WORTH = 1.0  # logits between all edges and none, below which faithfulness says nothing
EXACT_EVERY = 8  # every so-maniest target has all its cuts made, one by one, ...
EXACT_MOST = 24  # ... up to this many targets
PER_SCENE = 3  # questions of a scene, of different kinds

LEARNED = "learned graph"
BASELINES = ("|A·dA|", "gradient", "attention")
RANDOM = "random, same in-degrees"
ORDERS = (LEARNED, *BASELINES, RANDOM)
DDMIN = "ddmin from all edges"
KINDS = {"|A·dA|": "attention_gradient", "gradient": "gradient", "attention": "attention"}

# Smallest |partial correlation| that counts, for graphs of the influence matrix, sparsest first.
THRESHOLDS = (0.3, 0.1, 0.03, 0.02, 0.01, 0.005)

# What a graph can be learned from: options of `attention_correlations`.
SOURCES: dict[str, dict[str, Any]] = {
    "influence": {"source": "influence"},
    "relevancy": {"source": "relevancy"},
    "attention, composed": {"source": "attention", "layer": "effective"},
    "attention, mean of layers": {"source": "attention", "layer": "mean"},
    "attention, last layer": {"source": "attention", "layer": -1},
}
