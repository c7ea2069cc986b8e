"""ICD, FCI and PC against truths: every model of four nodes, and hundreds of random models.

Learners get the population correlation of the observed variables given the selection variables and
a sample size that makes |r| > 8e-7 a dependence. Models whose correlations do not show all their
dependences at that precision are left out, which the oracle decides and not the result.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from causal_lvlm.structure import learn_structure
from tests import naive, naive_learners, truth

DATA_FOLDER = Path(__file__).resolve().parents[1] / "data"
DATA = np.load(DATA_FOLDER / "oracle_pags.npz")
DSEP = np.load(DATA_FOLDER / "dsep_models.npz")
EXACT: dict[str, Any] = {"n_samples": 10**13, "alpha": 0.01}
ALGORITHMS = ["icd", "fci"]
VARIANTS = ["stable", "sequential"]
BLOCKS = 10


def check(structure, oracle):
    """What must hold besides the marks: every stored separating set separates."""
    n = structure.n_nodes
    for i in range(n):
        for j in range(i + 1, n):
            if not structure.pag.marks[i, j]:
                assert oracle(i, j, structure.sepset(i, j)) == 0.0
    assert structure.complete and structure.conflicts == 0 and structure.violations == ()
    assert len(structure.undecided) == 0


@functools.cache
def every_model(selection):
    """A linear model and the true PAG for each model of up to four nodes there is."""
    rng = np.random.default_rng(0)
    out = []
    for n in (2, 3, 4):
        for members in truth.all_mags(n, selection).values():
            case = truth.canonical_case(rng, members[rng.integers(len(members))])
            while not truth.is_faithful(case):
                case = truth.canonical_case(rng, members[rng.integers(len(members))])
            out.append((case, truth.common_marks(members)))
    return out


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("selection", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_model_of_four_nodes(algorithm, selection, variant):
    assert len(every_model(selection)) == (264 if selection else 261)
    for case, expected in every_model(selection):
        structure = learn_structure(
            case.correlation, algorithm=algorithm, selection_bias=selection, variant=variant,
            **EXACT,
        )  # fmt: skip
        np.testing.assert_array_equal(structure.pag.marks, expected)
        check(structure, case.oracle)


@functools.cache
def random_models(block, selection):
    """Fifty (with selection) or twenty models with 4 to 9 observed variables; count of dropped."""
    rng = np.random.default_rng([block, selection])
    kept, dropped = [], 0
    while len(kept) < (50 if selection else 20):
        n, latent, chosen = 4 + len(kept) % 6, int(rng.integers(4)), int(rng.integers(3))
        case = truth.random_case(rng, n, latent, chosen if selection else 0, rng.uniform(2.0, 4.0))
        if truth.is_faithful(case):
            kept.append(case)
        else:
            dropped += 1
    return kept, dropped


@functools.cache
def expected_marks(block, selection):
    """The PAGs by plain-Python FCI with the oracle, and how often each rule changed a mark."""
    out, fired = [], dict.fromkeys((f"rule_{k}" for k in range(11)), 0)
    for case in random_models(block, selection)[0]:
        marks, _, conflicts, counts = naive_learners.fci(
            case.oracle, case.n, lambda size: 0.5, selection=selection
        )
        assert conflicts == 0
        out.append(marks)
        for name, count in counts.items():
            fired[name] += count
    return out, fired


@pytest.mark.parametrize("selection", [False, True])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_models(block, selection, record_property):
    """500 models with selection variables and 200 without, both learners and both variants."""
    cases, dropped = random_models(block, selection)
    record_property("dropped", dropped)
    assert dropped <= len(cases) // 10
    for case, expected in zip(cases, expected_marks(block, selection)[0], strict=True):
        for algorithm in ALGORITHMS:
            for variant in VARIANTS:
                structure = learn_structure(
                    case.correlation, algorithm=algorithm, selection_bias=selection,
                    variant=variant, **EXACT,
                )  # fmt: skip
                np.testing.assert_array_equal(structure.pag.marks, expected)
                check(structure, case.oracle)


@pytest.mark.parametrize("selection", [False, True])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_what_random_models_should_give(block, selection):
    """Plain-Python ICD and FCI agree, say nothing untrue, and on four nodes all that is true."""
    for case, marks in zip(
        random_models(block, selection)[0], expected_marks(block, selection)[0], strict=True
    ):
        mag = truth.mag_of(case.oracle)
        np.testing.assert_array_equal(marks > 0, mag > 0)
        np.testing.assert_array_equal(marks[marks > 1], mag[marks > 1])
        if case.n == 4:
            members = truth.all_mags(4, selection)[truth.model_of_dag(case.oracle)]
            np.testing.assert_array_equal(marks, truth.common_marks(members))
        if case.n <= 7:
            other, *_ = naive_learners.icd(
                case.oracle, case.n, lambda size: 0.5, selection=selection
            )
            np.testing.assert_array_equal(other, marks)


def test_random_models_need_the_rules():
    """Otherwise the models above would say little about R5-R10 (R8 is rare: see test_rules)."""
    total = dict.fromkeys((f"rule_{k}" for k in range(11)), 0)
    for block in range(BLOCKS):
        for selection in (False, True):
            for name, count in expected_marks(block, selection)[1].items():
                total[name] += count
    assert all(total[f"rule_{k}"] > 0 for k in range(11) if k != 8), total


@pytest.mark.parametrize("selection", [False, True])
def test_five_and_six_nodes_by_their_markov_class(selection):
    """As for four nodes, where the skeleton is small enough to list all equivalent MAGs."""
    rng = np.random.default_rng(7)
    wanted = (5, 6, 7, 10) if selection else (3, 4, 10)
    done = 0
    while done < 12:
        chosen = int(rng.integers(1, 3)) if selection else 0
        n, latent = int(rng.integers(5, 7)), int(rng.integers(0, 4))
        case = truth.random_case(rng, n, latent, chosen, rng.uniform(2.0, 3.5))
        mag = truth.mag_of(case.oracle)
        if not 5 <= np.count_nonzero(mag) // 2 <= (7 if selection else 8):
            continue
        fired = naive_learners.fci(case.oracle, n, lambda size: 0.5, selection=selection)[3]
        if done % 2 and not any(fired.get(f"rule_{k}") for k in wanted):
            continue  # every other model is one in which a rare rule has something to say
        if not truth.is_faithful(case):
            continue
        expected = truth.common_marks(truth.markov_class(mag, selection))
        for algorithm in ALGORITHMS:
            structure = learn_structure(
                case.correlation, algorithm=algorithm, selection_bias=selection, **EXACT
            )
            np.testing.assert_array_equal(structure.pag.marks, expected)
        done += 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_fci_is_exact_on_stored_cases(variant):
    """The cases whose truth another program computed (ICD: test_oracle)."""
    for case in range(int(DATA["count"])):
        structure = learn_structure(
            DATA[f"{case}/correlation"], algorithm="fci", variant=variant, **EXACT
        )
        np.testing.assert_array_equal(structure.pag.marks, DATA[f"{case}/marks"])
        assert structure.complete and structure.conflicts == 0 and structure.violations == ()


@pytest.mark.parametrize("selection", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_models_that_need_sets_beyond_the_neighbours(algorithm, selection):
    """Models with a pair that no subset of neighbours separates: rare, about one in 650.

    They were found by searching confounded models (every latent variable has two children) of six
    to eight observed variables, by the oracle alone.
    """
    for k in range(int(DSEP["count"])):
        n = int(DSEP[f"{k}/n_observed"])
        case = truth.make_case(DSEP[f"{k}/weights"].astype(float), np.arange(n), np.arange(0))
        assert truth.is_faithful(case)
        mag = truth.mag_of(case.oracle)
        neighbours_only, _, _ = naive_learners.pc_skeleton(case.oracle, n, lambda size: 0.5)
        assert len(neighbours_only) > np.count_nonzero(mag) // 2
        expected, *_ = naive_learners.fci(case.oracle, n, lambda size: 0.5, selection=selection)
        np.testing.assert_array_equal(expected > 0, mag > 0)
        for variant in VARIANTS:
            structure = learn_structure(
                case.correlation, algorithm=algorithm, selection_bias=selection, variant=variant,
                **EXACT,
            )  # fmt: skip
            np.testing.assert_array_equal(structure.pag.marks, expected)
            check(structure, case.oracle)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pc_finds_the_cpdag(variant):
    """DAGs without latent variables; the truth lists all members of the Markov class."""
    rng = np.random.default_rng(11)
    done = dropped = 0
    while done < 200:
        n = 2 + done % 8
        case = truth.random_case(rng, n, 0, 0, rng.uniform(1.5, 3.5))
        if not truth.is_faithful(case):
            dropped += 1
            continue
        structure = learn_structure(case.correlation, algorithm="pc", variant=variant, **EXACT)
        assert structure.kind == "cpdag"
        expected = truth.cpdag_of((case.weights != 0).T)
        np.testing.assert_array_equal(structure.pag.marks, expected)
        check(structure, case.oracle)
        done += 1
    assert dropped <= 20


def random_sample(rng, n):
    """A correlation that belongs to no faithful model, and a threshold that leaves some edges."""
    data = rng.normal(size=(n + 5, n)) + rng.choice([0.0, 1.0]) * rng.normal(size=(n + 5, 1))
    return np.corrcoef(data, rowvar=False), float(rng.choice([0.1, 0.2, 0.35]))


@pytest.mark.parametrize("selection", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unfaithful_correlations(algorithm, selection):
    """Where no graph fits, the kernels still do what the plain-Python learners do."""
    rng = np.random.default_rng(13)
    learner = {
        "icd": naive_learners.icd,
        "fci": functools.partial(naive_learners.fci, textbook=False),
    }[algorithm]
    for _ in range(60):
        n = int(rng.integers(3, 8))
        correlation, threshold = random_sample(rng, n)
        marks, sepset, conflicts, _ = learner(
            naive.correlation_test(correlation), n, lambda size, t=threshold: t,
            selection=selection,
        )  # fmt: skip
        structure = learn_structure(
            correlation, threshold=threshold, algorithm=algorithm, selection_bias=selection
        )
        np.testing.assert_array_equal(structure.pag.marks, marks)
        assert structure.conflicts == conflicts
        for pair, members in sepset.items():
            assert structure.sepset(*pair) == members


@pytest.mark.parametrize("algorithm", ["icd", "fci", "pc"])
def test_evidence_of_each_pair(algorithm):
    """Smallest |partial correlation|, largest p-value, number of tests: what the twin met."""
    rng = np.random.default_rng(19)
    for _ in range(25):
        n, n_samples, alpha = int(rng.integers(3, 8)), int(rng.integers(12, 60)), 0.1
        correlation, _ = random_sample(rng, n)
        plain = naive.correlation_test(correlation)
        met: dict[tuple[int, int], dict[tuple[int, ...], float]] = {}

        def test(i, j, given, plain=plain, met=met):
            value = plain(i, j, given)
            met.setdefault((min(i, j), max(i, j)), {})[tuple(sorted(given))] = value
            return value

        def z_value(value, size, n_samples=n_samples):
            return np.arctanh(value) * np.sqrt(n_samples - size - 3)

        def thresholds(size, n_samples=n_samples, alpha=alpha):
            return np.tanh(-special.ndtri(alpha / 2) / np.sqrt(n_samples - size - 3))

        getattr(naive_learners, algorithm)(test, n, thresholds)
        structure = learn_structure(
            correlation, n_samples=n_samples, alpha=alpha, algorithm=algorithm
        )
        for (i, j), values in met.items():
            if algorithm == "fci":  # it may try fewer sets than the textbook: see above
                assert structure.tests_of(i, j) <= len(values)
                continue
            assert structure.tests_of(j, i) == len(values)
            assert structure.weakest(i, j) == pytest.approx(min(values.values()), abs=1e-9)
            least = min(z_value(value, len(given)) for given, value in values.items())
            assert structure.p_value(i, j) == pytest.approx(2 * special.ndtr(-least), rel=1e-6)
            separated = structure.sepset(i, j) is not None
            assert separated == (structure.p_value(i, j) > alpha)


def test_pc_on_unfaithful_correlations():
    rng = np.random.default_rng(17)
    for _ in range(100):
        n = int(rng.integers(3, 9))
        correlation, threshold = random_sample(rng, n)
        marks, sepset, tests = naive_learners.pc(
            naive.correlation_test(correlation), n, lambda size, t=threshold: t
        )
        structure = learn_structure(correlation, threshold=threshold, algorithm="pc")
        np.testing.assert_array_equal(structure.pag.marks, marks)
        assert list(structure.tests_per_size) == tests
        for pair, members in sepset.items():
            assert structure.sepset(*pair) == members
