"""`load_model`: the embedded model, a checkpoint of the hub, a folder, or objects in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.utils import logging

from causal_lvlm.errors import (
    ModelMemoryError,
    OptionError,
    UnsupportedModelError,
    quoted,
    readable,
)
from causal_lvlm.lvlm.families import Family, family_of
from causal_lvlm.lvlm.given import check_complete, check_type, check_use, pair
from causal_lvlm.lvlm.memory import available_memory, gigabytes, parse_memory
from causal_lvlm.lvlm.model import LVLM
from causal_lvlm.lvlm.unreadable import loading_error
from causal_lvlm.tiny import weights_path

__all__ = ["load_model"]

_EMBEDDED_ID = "causal-lvlm/tiny"

# What transformers, the hub and the readers of weights raise about files that are not as they
# should be: their own checks, and whatever values of a wrong kind lead to.
_RAISED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    ImportError,
    RuntimeError,
    MemoryError,
    SafetensorError,
    StrictDataclassError,
)


def load_model(
    name_or_path: str | os.PathLike[str] | tuple[Any, Any] | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    max_memory: int | str | None = None,
    family: Family | None = None,
) -> LVLM:
    """Load a vision-language model of a supported family.

    Parameters
    ----------
    name_or_path : str, path or (model, processor), optional
        Hub id (``"llava-hf/llava-1.5-7b-hf"``), local folder, or a pair of objects; the embedded
        tiny model if left out.
    device : str or torch.device
        ``"auto"`` takes an accelerator if there is one; the embedded model stays on the CPU.
    dtype : str or torch.dtype
        ``"auto"`` is float32 on the CPU, else the checkpoint's own.
    revision : str, optional
        Branch, tag or commit of the hub.
    attn_implementation : str, optional
        How the model computes attention outside of our calls; passed to transformers.
    trust_remote_code : bool
        Whether a checkpoint may run its own code. Off by default.
    max_memory : int or str, optional
        What one call that evaluates masked rows may take besides the model, in bytes or as text
        (``"2GB"``). By default the fastest batch is taken, and halved where it does not fit.
    family : Family, optional
        An entry of your own for a type that the table of families lacks, or serves otherwise. Its
        rectangles are confirmed on the model by painting, for every new size of image.

    Returns
    -------
    LVLM

    Raises
    ------
    UnsupportedModelError
        If the type is not supported, or the checkpoint cannot be read. Of this kind:
        `ModelNotFoundError` (no such model or revision), `ModelOfflineError` (not here, and no
        network), `ModelAccessError` (gated or private).
    ModelMemoryError
        If the weights are larger than the free memory, or memory runs out.
    CaptureError
        If the language model does not use the attention interface of transformers.
    ValueError
        If `device` or `dtype` is none that can be computed with.
    """
    budget = parse_memory(max_memory)
    if name_or_path is not None and not isinstance(name_or_path, (str, os.PathLike)):
        lvlm = LVLM(*pair(name_or_path), family=family)
        check_use(lvlm)
        lvlm.max_memory = budget
        return lvlm
    embedded = name_or_path is None
    source = _embedded_path() if name_or_path is None else _located(name_or_path)
    if revision is not None and (embedded or isinstance(source, Path)):
        what = "the embedded model" if embedded else f"the folder {str(source)!r}"
        raise UnsupportedModelError(
            f"{what} has no revisions, but revision={revision!r} was given; leave it out, or name "
            "a model of the hub"
        )
    # Whether code may be run is always said: transformers would ask at the terminal.
    options: dict[str, Any] = {"trust_remote_code": bool(trust_remote_code)}
    if revision is not None:
        options["revision"] = revision
    place = _device(device, embedded)
    number_format = _dtype(dtype, place, embedded)
    with _explained(source, revision, "configuration"):
        raw = PreTrainedConfig.get_config_dict(source, revision=revision)[0]
    if family is None:
        check_type(source, raw)
    with _explained(source, revision, "configuration"):
        config = AutoConfig.from_pretrained(source, **options)
    family = family_of(config, family)  # refuse before reading gigabytes
    if not embedded:
        _check_memory(source, config, number_format, place, family.text_only)
    processors = AutoTokenizer if family.text_only else AutoProcessor
    models = AutoModelForCausalLM if family.text_only else AutoModelForImageTextToText
    with _explained(source, revision, "processor"):
        processor = processors.from_pretrained(source, **options)
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    with _explained(source, revision, "weights"):
        with _quiet():
            model, info = models.from_pretrained(
                source, dtype=number_format, output_loading_info=True, **options
            )
        model = model.to(place)
    check_complete(source, info)
    model.requires_grad_(False)  # ours alone: gradients are taken with respect to activations
    found = getattr(model.config, "_commit_hash", None) or revision
    lvlm = LVLM(model, processor, _EMBEDDED_ID if embedded else str(source), found, family=family)
    check_use(lvlm)
    lvlm.max_memory = budget
    return lvlm


@contextmanager
def _explained(source: str | Path, revision: str | None, part: str) -> Iterator[None]:
    """Turn what transformers and the hub raise into errors that say what to do."""
    try:
        yield
    except _RAISED as error:
        raise loading_error(source, revision, error, part) from error


def _check_memory(
    source: str | Path,
    config: Any,
    dtype: str | torch.dtype,
    device: torch.device,
    text_only: bool,
) -> None:
    """Refuse a model whose weights alone are larger than what is free.

    Raises
    ------
    ModelMemoryError
    """
    free = available_memory(device)
    if free is None or getattr(config, "quantization_config", None) is not None:
        return  # nothing to compare with, or smaller in a way only the checkpoint knows
    if isinstance(dtype, str):
        dtype = getattr(config, "dtype", None) or torch.float32
    models = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    try:
        with torch.device("meta"):  # shapes without memory
            shapes = models.from_config(config).parameters()
            count = sum(p.numel() for p in shapes)
    except _RAISED:
        return  # an estimate only: the loading itself will say what is wrong
    needed = count * dtype.itemsize
    if needed > free:
        half = "" if dtype.itemsize <= 2 else " Half of that is needed with dtype='bfloat16'."
        raise ModelMemoryError(
            f"{str(source)!r} has {count / 1e9:.2f} billion parameters and needs about "
            f"{gigabytes(needed)} in {str(dtype).removeprefix('torch.')}, but {device} has "
            f"{gigabytes(free)} free.{half} A quantised model, or one spread over devices, can be "
            "loaded with transformers and given as a pair: load_model((model, processor))"
        )


class _QuietLoading:
    """Hides the bar "Loading weights" of transformers while one of our threads loads a model.

    1. transformers asks one hook of the process before it makes a bar. The first load puts ours in
       its place, the last one puts the user's back; a hook set in between is left alone.
    2. Ours hides that one bar, and only in threads that are loading here. Every other bar, such as
       that of a download, goes to the user's hook and settings.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here = threading.local()
        self._loads = 0
        self._users: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hide the bar inside the block."""
        with self._lock:
            if not self._loads:
                self._users = logging.set_tqdm_hook(self._hook)
            self._loads += 1
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            yield
        finally:
            self._here.depth -= 1
            with self._lock:
                self._loads -= 1
                if not self._loads:
                    found = logging.set_tqdm_hook(self._users)
                    if found != self._hook:
                        logging.set_tqdm_hook(found)
                    self._users = None

    def _hook(self, factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if getattr(self._here, "depth", 0) and options.get("desc") == "Loading weights":
            return logging.EmptyTqdm(*args, **options)
        users = self._users
        return factory(*args, **options) if users is None else users(factory, args, options)


_quiet = _QuietLoading()


def _embedded_path() -> Path:
    path = Path(weights_path())
    if not (path / "config.json").is_file():
        raise UnsupportedModelError(
            f"the embedded model is missing from {str(path)!r}; install the package again, or give "
            "the name or folder of another model"
        )
    return path


def _located(name_or_path: str | os.PathLike[str]) -> str | Path:
    """Tell a folder from a hub id; a folder that is not there gets a message of its own."""
    text = os.fsdecode(name_or_path)
    name = quoted(text)
    if not text.strip():
        raise UnsupportedModelError(
            "the model's name is empty; leave it out for the embedded model"
        )
    if text.startswith(("http://", "https://")):
        raise UnsupportedModelError(
            f"{name} is an address; give the hub id alone, 'owner/name', or a folder"
        )
    path = Path(text).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        described = (path / "config.json").is_file()
        is_adapter = (path / "adapter_config.json").is_file()
    except (OSError, ValueError):  # no name that a file system takes
        is_folder = is_file = described = is_adapter = False
    if is_folder and not described:
        merge = "; it holds an adapter: merge that into its model, and save it" * is_adapter
        raise UnsupportedModelError(
            f"the folder {name} holds no config.json; give a folder written by save_pretrained"
            + merge
        )
    if is_folder:
        return path
    if is_file:
        raise UnsupportedModelError(f"{name} is a file; give the folder that save_pretrained wrote")
    looks_local = (
        not isinstance(name_or_path, str)
        or path.is_absolute()
        or text.startswith((".", "~"))
        or text.count("/") > 1
    )
    if looks_local:
        raise UnsupportedModelError(f"there is no model folder {name}")
    return text


def _device(device: str | torch.device, embedded: bool) -> torch.device:
    if device != "auto":
        try:
            wanted = torch.device(device)
            torch.empty(0, device=wanted)  # proves that it is there before gigabytes are read
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            first = str(error).splitlines()[0].split(". ")[0]
            raise OptionError(
                f"device {quoted(device)} cannot be used here: {readable(first)}; try device='cpu'"
            ) from error
        if wanted.type == "meta":
            raise OptionError("the device 'meta' holds shapes without values; try device='cpu'")
        return wanted
    return torch.device("cuda" if torch.cuda.is_available() and not embedded else "cpu")


def _dtype(dtype: str | torch.dtype, device: torch.device, embedded: bool) -> str | torch.dtype:
    if isinstance(dtype, str) and dtype == "auto":
        return torch.float32 if embedded or device.type == "cpu" else "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    # Formats of one byte only store weights; nothing is computed in them.
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise OptionError(
            "dtype must be 'auto' or a floating-point format such as 'float32', "
            f"got {quoted(dtype)}"
        )
    return found
