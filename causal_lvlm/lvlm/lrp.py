"""Relevance propagation through a language model, in gradient x input form.

Layer-wise relevance propagation (LRP) hands the target's score back from layer to layer by local
rules. Where every rule is linear in the relevance, relevance equals input times a modified
gradient, so one ordinary backward pass does it once the *backward* of a few operations is changed:

1. Linear maps: unchanged (0-rule). What biases contribute is not handed on.
2. RMSNorm, LayerNorm: 1/std counts as a constant (identity rule; LN-rule of Ali et al.).
3. Element-wise activation g: the factor is g(x)/x instead of g'(x) (identity rule).
4. Products of two activations (gates, routing weights): half to each factor (uniform rule).
5. Attention: softmax(q k^T) v are two products, so q and k get a quarter of the gradient that
   reaches them and v a half, with softmax's ordinary gradient between (AttnLRP, section 3);
   or attention weights count as constants (``attention="frozen"``).
6. score_i = sum over d of (e_i - e'_i)_d times the modified gradient at the merged embedding e_i;
   e' = 0 except for RelP.

=========  ==================  =============  ==================================================
rules      attention           gates          published as
=========  ==================  =============  ==================================================
attn_lrp   uniform             half           AttnLRP, eq. 7, 9 and the norm's identity rule
cp_lrp     frozen              constant       CP-LRP, the conservative propagation
relp       frozen (or plain)   half           RelP: LN-, AH-, half- and identity rule
=========  ==================  =============  ==================================================

Checked: the rules for norms, gates, activations and attention against the released code of AttnLRP
and the rule table of RelP's repository (whose quick start leaves attention at its plain gradient).
On random Llama and Qwen3 models ``attn_lrp`` and ``cp_lrp`` agree with AttnLRP's own library to
1e-7. This module is written from the papers' rules and shares no code with either.

References
----------
R. Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers",
ICML 2024, arXiv:2402.05602. A. Ali et al., "XAI for Transformers: Better Explanations through
Conservative Propagation", ICML 2022, arXiv:2202.07304. F. Rezaei Jafari et al., "RelP: Faithful and
Efficient Circuit Discovery via Relevance Patching", 2025, arXiv:2508.21258.
"""

from __future__ import annotations

import numpy as np
import torch

from causal_lvlm.arrays import Float32Array, frozen
from causal_lvlm.errors import CaptureError
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.propagation import propagation
from causal_lvlm.results import Relevance, Rules
from causal_lvlm.tokens import TargetLike

__all__ = ["Propagates"]


class Propagates(Live):
    """Relevance of the merged embeddings."""

    def propagate(
        self,
        target: TargetLike,
        rules: Rules,
        *,
        against: int | str | None = None,
        baseline: Float32Array | None = None,
    ) -> Relevance:
        """Propagate the target's logits back to the merged embeddings: one forward, one backward.

        Read the note on patents in `causal_lvlm.attribution.lrp` before using it.

        Parameters
        ----------
        target : TargetLike
        rules : Rules
        against : int or str, optional
            A token whose logit at the first predicting row is subtracted.
        baseline : ndarray of float32, shape (T, D), optional
            e' of the module's text.

        Returns
        -------
        Relevance

        Raises
        ------
        CaptureError
            If relevance is not finite.
        ValueError
            If `baseline` has another shape than the embeddings.
        """
        prepared, meant = self.prepared, self.target(target)
        lvlm = prepared.lvlm
        other = None if against is None else lvlm.token_id(against)
        with lvlm.session(), torch.enable_grad():
            embeds = prepared.embeds.detach().clone().requires_grad_(True)
            rows = torch.tensor([p - 1 for p in meant.positions], device=lvlm.device)
            first = int(rows[0])
            with propagation(lvlm.decoder, rules):
                logits = prepared.logits(embeds, prepared.positions, len(prepared.layout) - first)
            logits = logits[0, rows - first].float()
            ids = torch.tensor(meant.token_ids, device=lvlm.device)
            total = logits.gather(1, ids[:, None]).sum()
            if other is not None:
                total = total - logits[0, other]
            (gradient,) = torch.autograd.grad(total, embeds)
        gradient = gradient.detach().double()[0]
        inputs = embeds.detach().double()[0]
        plain = (gradient * inputs).sum(dim=-1)
        values = plain
        if baseline is not None:
            if tuple(baseline.shape) != tuple(inputs.shape):
                raise ValueError(
                    f"baseline has shape {baseline.shape}, the embeddings {tuple(inputs.shape)}"
                )
            reference = torch.as_tensor(np.array(baseline), device=inputs.device).double()
            values = (gradient * (inputs - reference)).sum(dim=-1)
        if not torch.isfinite(values).all():
            raise CaptureError(
                "relevance is not finite; run the model in float32 (dtype='float32')"
            )
        score = float(total.detach())
        return Relevance(
            frozen(values.cpu().numpy(), np.float64), score, score - float(plain.sum())
        )
