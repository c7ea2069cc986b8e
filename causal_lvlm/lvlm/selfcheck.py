"""Checks made on every run, so that a silent mismatch cannot pass for an explanation.

`check_run` compares the teacher-forced pass, on which everything rests, with the generation.
`geometry_error` sends a coordinate ramp (red grows to the right, green downwards) through the
model's image processor: the mean colour of each patch says where in the original it came from, and
must agree with the rectangle in the layout.
"""

from __future__ import annotations

import numpy as np
import torch

from causal_lvlm.arrays import FloatArray
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.spotcheck import tolerance_for
from causal_lvlm.results import SelfCheck

__all__ = ["check_run"]


def check_run(prepared: Prepared, recorded: FloatArray, geometry: float = 0.0) -> SelfCheck:
    """Compare one teacher-forced pass with the recorded generation.

    Parameters
    ----------
    prepared : Prepared
    recorded : ndarray of float64, shape (G,)
        Log-probabilities of the generated tokens when they were generated.
    geometry : float
        Result of `causal_lvlm.lvlm.ramp.geometry_error`.
    """
    lvlm = prepared.lvlm
    n_prompt, length = prepared.layout.n_prompt, len(prepared.layout)
    # Queries and keys of the last layer, and of the last one that looks at the whole sequence, are
    # kept on the way, so that their attention costs no pass.
    modules, kinds = lvlm.attention_modules, lvlm.attention_kinds
    kept = {len(kinds) - 1, *[i for i, kind in enumerate(kinds) if kind == "full"][-1:]}
    wanted = {id(modules[i]): i for i in kept}
    recorder = Recorder(record=True, modules=frozenset(wanted))
    with lvlm.session(), recording(recorder), torch.no_grad():
        logits = prepared.logits(prepared.embeds, prepared.positions, length - n_prompt + 1)
    prepared.keep_calls({wanted[id(call.module)]: call for call in recorder.calls})
    logits = logits[0, :-1].double()  # the last token predicts nothing that was recorded
    targets = prepared.token_ids[0, n_prompt:].to(logits.device)
    log_probs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].cpu().numpy()
    difference = float(np.abs(log_probs - recorded).max())
    behind = logits.max(dim=-1).values - logits.gather(1, targets[:, None])[:, 0]
    agreement = float((behind == 0).double().mean())
    tolerance = tolerance_for(lvlm)
    return SelfCheck(
        # Two tokens whose logits are equal but for rounding may change places, no others.
        passed=bool(
            difference <= tolerance and float(behind.max()) <= tolerance and geometry < 0.5
        ),
        argmax_agreement=agreement,
        max_log_prob_difference=difference,
        tolerance=tolerance,
        geometry_error=geometry,
        largest_gap=float(behind.max()),
    )
