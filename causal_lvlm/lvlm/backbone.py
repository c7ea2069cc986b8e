"""`Backbone`: a model as everything that asks it needs it; it runs the language model.

1. Images and text go through the model's own processor (see `inputs`).
2. Image features are merged into the embeddings of the sequence, by the model itself (`embed`).
3. The language model and its head run on any part of those embeddings (`logits`).

`causal_lvlm.lvlm.LVLM`, which makes traces, stands above all that asks a trace's model again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from causal_lvlm.arrays import IntArray
from causal_lvlm.lvlm.context import Context, decoder_arguments, injected, read_context
from causal_lvlm.lvlm.inputs import Processes, whole_inputs
from causal_lvlm.lvlm.layers import Layered
from causal_lvlm.lvlm.state import plain_generation
from causal_lvlm.protocols import ModelLike, TraceLike

__all__ = ["Backbone"]

_SAMPLE = 64  # numbers of each weight that go into the fingerprint, from either end


class Backbone(Processes, Layered):
    """A model that merges embeddings and runs on them; see `Facts` for parameters and attributes.

    What only `causal_lvlm.lvlm.LVLM` can do, of which every backbone is one, is named here: a
    trace's model can be asked something else.
    """

    run: Callable[..., TraceLike]
    randomised: Callable[..., ModelLike]

    def fingerprint(self) -> str:
        """Return a hash of the weights: names, shapes, and numbers from either end of each.

        Sampled, so that it takes no time with a large model.
        """
        digest = hashlib.sha256()
        for name, weight in self.model.named_parameters():
            flat = weight.detach().reshape(-1)
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            for part in (flat[:_SAMPLE], flat[-_SAMPLE:]):
                digest.update(part.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:32]

    def ordinary_tokens(self) -> IntArray:
        """Return the ids of all tokens but special ones and the image's."""
        n_tokens = min(int(self.text_config.vocab_size), len(self.tokenizer))
        refused = {*self.tokenizer.all_special_ids, self.image_token_id}
        return np.array([i for i in range(n_tokens) if i not in refused], dtype=np.int64)

    @contextmanager
    def plain_generation(self) -> Iterator[None]:
        """Set aside the checkpoint's own settings of generation until the block ends."""
        with plain_generation(self.model, self.current_parts().modules):
            yield

    def embed(
        self, inputs: Mapping[str, torch.Tensor], token_ids: torch.Tensor
    ) -> tuple[torch.Tensor, Context]:
        """Merge image features into the embeddings of a sequence, as the model itself does.

        Parameters
        ----------
        inputs : mapping of str to Tensor
            What the processor returned for the prompt.
        token_ids : Tensor of int64, shape (1, T)
            Prompt and answer.

        Returns
        -------
        (Tensor, Context)
            Embeddings (1, T, D + additions) and whatever else the language model is given.
        """
        table = self.model.get_input_embeddings()
        if self.family.text_only:
            embeds = table(token_ids)
            positions = torch.arange(token_ids.shape[1], device=token_ids.device)[None]
            return embeds, Context(embeds.shape[-1], positions)
        n_prompt = int(inputs["input_ids"].shape[1])
        # A model may generate the image's token; only those of the prompt stand for features.
        stray = (token_ids == self.image_token_id) & (
            torch.arange(token_ids.shape[1], device=token_ids.device) >= n_prompt
        )
        given = whole_inputs(inputs, token_ids.masked_fill(stray, 0), self.family.fill)
        found = decoder_arguments(self.decoder, lambda: self.model(**given, use_cache=False))
        if found.get("inputs_embeds") is None and found.get("input_ids") is not None:
            found["inputs_embeds"] = table(found["input_ids"])  # the image enters elsewhere
        embeds, context = read_context(found)
        if stray.any():
            embeds = embeds.clone()
            embeds[:, stray[0], : context.width] = table(token_ids[stray])[None]
        return embeds, context

    def logits(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        rows: int | torch.Tensor,
        cache: DynamicCache | None = None,
        context: Context | None = None,
    ) -> torch.Tensor:
        """Run the language model and its head on merged embeddings.

        Parameters
        ----------
        embeds : Tensor, shape (B, L, D + additions)
        positions : Tensor of int64, shape (B, L)
            Which position of the sequence each is, ascending.
        rows : int or Tensor of int64
            Logits of the last so many rows are returned, 0 for all; or of the rows given by number.
        cache : DynamicCache, optional
            Keys and values of what stands before.
        context : Context, optional
            What the language model is given beside embeddings; plain causality if left out.

        Returns
        -------
        Tensor, shape (B, rows, vocabulary)
        """
        past = cache.get_seq_length() if cache is not None else 0
        given: dict[str, Any] = {"inputs_embeds": embeds, "position_ids": positions}
        more: dict[str, Any] = {}
        if context is not None:
            more = context.arguments(embeds, positions, past)
            given["inputs_embeds"] = more["inputs_embeds"]
            if context.is_plain:
                given, more = more, {}
            elif "per_layer_inputs" in more and self._takes("per_layer_inputs"):
                given["per_layer_inputs"] = more["per_layer_inputs"]
        # An explicit mask of ones: without a mask, gaps in the position ids would be taken for
        # several sequences packed into one.
        given["attention_mask"] = torch.ones(
            len(embeds), past + embeds.shape[1], dtype=torch.long, device=embeds.device
        )
        given.update(past_key_values=cache, use_cache=cache is not None, logits_to_keep=rows)
        with injected(self.decoder, more) if more else nullcontext():
            logits: torch.Tensor = self.head(**given).logits
        return logits

    def _takes(self, name: str) -> bool:
        """Whether the head's call has an argument of this name (older ones hand it on twice)."""
        return name in signature(type(self.head).forward).parameters
