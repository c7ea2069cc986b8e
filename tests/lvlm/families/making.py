"""What tiny models of every family are made of: a tokenizer, sizes, processors, random weights.

Processors are the families' own classes, built from a byte-level tokenizer and image processors of
small sizes. Two private checks of transformers stand in the way where torchvision is missing (a
video processor is demanded, and one class refuses to load); they are lifted here, for tests alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers import processors as post
from transformers import PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from tests.models import _rescale

TEXT: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    tie_word_embeddings=False,
    bos_token_id=2,
    eos_token_id=3,
    pad_token_id=0,
)
VISION: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
)
Pair = tuple[Any, Any]


def byte_tokenizer(*specials: str, bos: bool = True, **named: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that knows some words and special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = dict.fromkeys(["<pad>", "<unk>", "<s>", "</s>", *named.values(), *specials])
    vocabulary = {token: i for i, token in enumerate([*known, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in known])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = post.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=[*specials],
        extra_special_tokens=named,
    )


@contextmanager
def lenient() -> Iterator[None]:
    """Let a processor be built without the parts that need torchvision."""
    check = ProcessorMixin.check_argument_for_proper_class
    ProcessorMixin.check_argument_for_proper_class = lambda self, name, value: None
    try:
        yield
    finally:
        ProcessorMixin.check_argument_for_proper_class = check


def image_processor(name: str, **options: Any) -> Any:
    """Return an image processor that needs no torchvision."""
    kind = name.removesuffix("ImageProcessorPil")
    folder = Path(transformers.__file__).parent / "models"
    found = folder.glob("*/image_processing_pil_*.py")
    names = [p.parent.name for p in found if p.parent.name.replace("_", "") == kind.lower()]
    module = importlib.import_module(
        f"transformers.models.{names[0]}.image_processing_pil_{names[0]}"
    )
    return getattr(module, name)(**options)


def finished(config: Any, name: str, tokenizer: Any, seed: int = 1) -> Any:
    """Return a random model whose attention is far from uniform and whose answers do not end."""
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config).eval()
    _rescale(model)
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id, generation.bos_token_id = 3, 0, 2
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight[: tokenizer.convert_tokens_to_ids("!")] = 0.0  # special tokens stand first
    return model


def text(kind: str, tokenizer: Any, **options: Any) -> Any:
    """Return a small text configuration."""
    values = {**TEXT, "vocab_size": len(tokenizer), **options}
    return getattr(transformers, kind)(**values)
