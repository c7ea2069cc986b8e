"""`Live`: what was recorded of one question and its answer, and the model to ask about it again.

The verbs of a trace stand where their work is, each a class over this one: `capture`, `evaluate`,
`gradients`, `probes`, `features`, `heads`, `cross`, `lrp`. `Trace` puts them together. All take and
return numpy, leave nothing on the model, and may be called from several threads.
"""

from __future__ import annotations

from typing import Final

from causal_lvlm.errors import DetachedTraceError
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.record import TraceRecord
from causal_lvlm.tokens import Target, TargetLike, resolve_target

__all__ = ["Live"]


class Live:
    """A record, and the sequence ready to run again; None without a model.

    Parameters
    ----------
    record : TraceRecord
    prepared : Prepared, optional

    Attributes
    ----------
    record : TraceRecord
    prompt, answer, image, images, layout, log_probs, self_check, model_id, revision, versions, \
parameters, remarks
        The record's.
    """

    def __init__(self, record: TraceRecord, prepared: Prepared | None = None) -> None:
        self.record: Final = record
        self.prompt: Final = record.prompt
        self.answer: Final = record.answer
        self.image: Final = record.image
        self.images: Final = record.images
        self.layout: Final = record.layout
        self.log_probs: Final = record.log_probs
        self.self_check: Final = record.self_check
        self.model_id: Final = record.model_id
        self.revision: Final = record.revision
        self.versions: Final = record.versions
        self.parameters: Final = record.parameters
        self.remarks: Final = record.remarks
        self._prepared = prepared

    @property
    def prepared(self) -> Prepared:
        """The sequence ready to run again (for the model boundary itself)."""
        if self._prepared is None:
            raise DetachedTraceError(
                f"this trace was loaded from disk and has no model; call "
                f"trace.attach(causal_lvlm.load_model({self.model_id!r})) first"
            )
        return self._prepared

    @property
    def model(self) -> Backbone:
        """The attached model; raises `DetachedTraceError` if there is none."""
        return self.prepared.lvlm

    def target(self, target: TargetLike) -> Target:
        """Find the generated tokens meant by a word, index, slice or function.

        Parameters
        ----------
        target : str, int, slice, callable or Target
            A word of the answer, the number of a generated token from 0, several of them, or
            what picks them.
        """
        return resolve_target(self.layout, target)

    def token_id(self, text: int | str) -> int:
        """Return the id of the first token of a word, as the model would generate it.

        Parameters
        ----------
        text : str or int
            An id is checked to be one of the vocabulary.
        """
        return self.model.token_id(text)

    def token_text(self, token_id: int) -> str:
        """Return the text of any token of the vocabulary.

        Parameters
        ----------
        token_id : int
        """
        return self.model.token_text(token_id)
