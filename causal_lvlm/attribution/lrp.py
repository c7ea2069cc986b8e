"""Layer-wise relevance propagation: AttnLRP, CP-LRP and RelP, in gradient x input form.

The rules and their references stand in `causal_lvlm.lvlm.lrp`, which follows them. Here are the
three methods, and the note that one must have read before using them.

Patent note. Layer-wise relevance propagation is the subject of patents (WO 2016/150472, "Relevance
score assignment for artificial neural networks", applicants Fraunhofer-Gesellschaft and Technische
Universität Berlin; for example EP 3271863 B1 and US 12061966 B2). The README of AttnLRP's library
(LXT, read 2026-11) says that LRP is patented and can be used free of charge for personal and
scientific purposes only; its licence grants no patent rights. The code of this package is its own,
but that gives no licence to the patents either. Whether a use needs one is for the user to find
out; this is no legal advice. For that reason these methods are optional: nothing runs them unless
they are named *and* ``accept_patent_note=True`` is passed.

RelP as published attributes the *change* of a metric when activations are replaced,
(a_corrupt - a_clean) times the coefficient P at the clean run. Its negative, (e - e') P at the
merged embeddings e with a baseline e' in place of the corrupt run, is what `relp` returns, so that
positions that support the target are positive, as in every other method here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from causal_lvlm.attribution.info import ONE_BACKWARD, MethodInfo, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.checks import check_choice
from causal_lvlm.protocols import Propagates
from causal_lvlm.results import Rules
from causal_lvlm.tokens import Target

__all__ = ["PATENT_NOTE", "TABLE", "cp_lrp", "lrp", "relp"]

PATENT_NOTE = (
    "layer-wise relevance propagation is patented (WO 2016/150472 and its family; "
    "Fraunhofer-Gesellschaft, Technische Universität Berlin); its authors' library says that it "
    "can be used free of charge for personal and scientific purposes only, and this package gives "
    "no patent licence"
)
RULES = {
    "attn_lrp": Rules("uniform", "half"),
    "cp_lrp": Rules("frozen", "constant"),
    "relp": Rules("frozen", "half"),
}
_SUMMARY_NOTE = "patented: see the note, needs accept_patent_note=True"


def lrp(
    trace: Propagates,
    target: Target,
    *,
    against: int | str | None = None,
    accept_patent_note: bool = False,
) -> Scores:
    """Score positions by AttnLRP: uniform rule at attention, half rule at gates.

    Parameters
    ----------
    trace : Trace
    target : Target
    against : int or str, optional
        A token whose logit is subtracted.
    accept_patent_note : bool
        Must be True; see the module's text.

    Returns
    -------
    Scores
        The notes say how much relevance the rules did not hand on (softmax and biases keep some).

    Raises
    ------
    ValueError
        If the note was not accepted.
    CaptureError
        If relevance is not finite.

    References
    ----------
    Achtibat et al., ICML 2024, arXiv:2402.05602.
    """
    return _run(trace, target, "attn_lrp", accept_patent_note, against=against)


def cp_lrp(
    trace: Propagates,
    target: Target,
    *,
    against: int | str | None = None,
    accept_patent_note: bool = False,
) -> Scores:
    """Score positions by CP-LRP: attention weights and gates are constants.

    Parameters, result and errors are those of `lrp`. In a model without biases relevance is
    conserved: the scores sum to the target's logit.

    References
    ----------
    Ali et al., ICML 2022, arXiv:2202.07304.
    """
    return _run(trace, target, "cp_lrp", accept_patent_note, against=against)


def relp(
    trace: Propagates,
    target: Target,
    *,
    against: int | str | None = None,
    baseline: str = "zero",
    attention: str = "frozen",
    accept_patent_note: bool = False,
) -> Scores:
    """Score positions by RelP's coefficients times the distance from a baseline.

    Parameters
    ----------
    trace : Trace
    target : Target
    against : int or str, optional
        A token whose logit is subtracted.
    baseline : {"zero", "mean", "pad", "blur"}
        What stands for the corrupt run at each position, see `Trace.baseline_embeddings`.
    attention : {"frozen", "plain"}
        Whether attention weights count as constants (AH-rule) or keep their ordinary gradient; the
        released code offers both.
    accept_patent_note : bool
        Must be True; see the module's text.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        If the note was not accepted, or an option is unknown.
    CaptureError
        If relevance is not finite.

    References
    ----------
    Rezaei Jafari et al. 2025, arXiv:2508.21258.
    """
    check_choice("baseline", baseline, ("zero", "mean", "pad", "blur"))
    check_choice("attention", attention, ("frozen", "plain"))
    return _run(
        trace,
        target,
        "relp",
        accept_patent_note,
        against=against,
        attention=attention,
        baseline=baseline,
    )


def _run(
    trace: Propagates,
    target: Target,
    name: str,
    accepted: bool,
    *,
    against: int | str | None,
    attention: str | None = None,
    baseline: str | None = None,
) -> Scores:
    if accepted is not True:
        raise ValueError(
            f"{PATENT_NOTE}. Read the note in causal_lvlm.attribution.lrp, and pass "
            "accept_patent_note=True if your use is covered"
        )
    rules = RULES[name] if attention is None else replace(RULES[name], attention=attention)
    reference = None
    if baseline not in (None, "zero"):
        reference = trace.baseline_embeddings(baseline)
    found = trace.propagate(target, rules, against=against, baseline=reference)
    parameters: dict[str, Any] = {
        "against": against,
        "attention": rules.attention,
        "gate": rules.gate,
        "score": found.score,
        "absorbed": found.absorbed,
    }
    if baseline is not None:
        parameters["baseline"] = baseline
    notes = (
        f"{found.absorbed:.4g} of the score {found.score:.4g} was not handed on to the input",
        PATENT_NOTE,
    )
    return Scores(found.values.copy(), parameters, model_runs=1, backward_passes=1, notes=notes)


TABLE: Table = (
    (
        lrp,
        MethodInfo(
            "lrp",
            ("attnlrp", "attn_lrp"),
            "propagation",
            f"relevance propagated with AttnLRP's rules; {_SUMMARY_NOTE}",
            ONE_BACKWARD,
            reference="Achtibat et al. 2024, arXiv:2402.05602",
            optional=True,
        ),
    ),
    (
        cp_lrp,
        MethodInfo(
            "cp_lrp",
            (),
            "propagation",
            f"relevance propagated with attention and gates as constants; {_SUMMARY_NOTE}",
            ONE_BACKWARD,
            reference="Ali et al. 2022, arXiv:2202.07304",
            optional=True,
        ),
    ),
    (
        relp,
        MethodInfo(
            "relp",
            (),
            "propagation",
            f"RelP's coefficients times the distance from a baseline; {_SUMMARY_NOTE}",
            ONE_BACKWARD,
            reference="Rezaei Jafari et al. 2025, arXiv:2508.21258",
            optional=True,
        ),
    ),
)
