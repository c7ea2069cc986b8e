"""An explanation in a notebook: its set marked on pictures and text, and its sentence."""

from __future__ import annotations

from html import escape

from causal_lvlm.cards import badge, card, marked
from causal_lvlm.explanation.names import amount
from causal_lvlm.explanation.sentences import Told
from causal_lvlm.protocols import Recorded

__all__ = ["explanation_card"]

_GOOD, _WARN = "color:#00684a;background:#d8f0e6", "color:#7a4b00;background:#fdeecb"


def explanation_card(explanation: Told, run: Recorded, said: str) -> str:
    """Return an explanation as a fragment of HTML.

    Parameters
    ----------
    explanation : Explanation
    run : TraceRecord
        The run that is explained.
    said : str
        Its sentence.
    """
    main = explanation.main
    numbers = {p: n for n, unit in enumerate(main.units, start=1) for p in unit}
    pictures, words = marked(run, numbers, set(explanation.target.positions))
    badges = [badge("verified", _GOOD) if main.verified else badge("not verified", _WARN)]
    size = "no claim of minimality" if main.minimality == "none" else main.claim
    if main.verified and size:
        badges.append(badge(size))
    badges.append(badge(amount(explanation.model_runs, "model run")))
    return card(pictures, escape(said), f"<p>{''.join(badges)}</p><p>{words}</p>")
