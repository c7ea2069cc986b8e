"""``causal-lvlm evaluate``: methods and metrics over the user's own data, resumable.

1. Everything the user gave is checked: each line of DATA, the names of methods and metrics.
2. `causal_lvlm.runner` hands out the items; each process loads the model once.
3. An item: the model answers, every method explains the target, every metric measures every
   method. Runs, seconds and memory of a method are its own.
4. The summary is computed from the file, so a resumed run prints the same table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causal_lvlm.checks import whole_number
from causal_lvlm.cli.items import read_items
from causal_lvlm.cli.overwriting import spare
from causal_lvlm.cli.support import (
    INTERRUPTED,
    Debug,
    Json,
    clear_errors,
    given,
    one_thread,
    say,
)
from causal_lvlm.errors import OptionError
from causal_lvlm.items_file import UnsavedError
from causal_lvlm.storage import to_jsonable, versions

if TYPE_CHECKING:
    from causal_lvlm.lvlm import LVLM
    from causal_lvlm.workers import Setup

__all__ = ["evaluate"]

DEFAULT_METRICS = "deletion,insertion,comprehensiveness,sufficiency"
LOCALISATION = "localisation"


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            help="JSON lines of image, prompt and optionally target, boxes, id; or a folder of "
            "images with items.jsonl, or with a .txt or .json file for each image."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File of results (JSON lines), appended to.")],
    methods: Annotated[
        str, typer.Option(help="Names, comma between. See: causal-lvlm methods.")
    ] = "relevancy",
    metrics: Annotated[
        str, typer.Option(help="Names, comma between; name[masking] chooses a masking.")
    ] = DEFAULT_METRICS,
    units: Annotated[
        str,
        typer.Option(
            help="What is masked as one: patch, block:K or superpixel:N, with token, word or "
            "sentence, a + between."
        ),
    ] = "patch+word",
    masking: Annotated[
        str, typer.Option(help="remove, edges, neutral, pixels-blur, pixels-mean, zero, ...")
    ] = "remove",
    jobs: Annotated[int, typer.Option(help="Processes; each loads the model.")] = 1,
    model: Annotated[
        str | None,
        typer.Option(help="Hub id or local folder; default: the embedded tiny model."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="For items without one.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Of a method, as METHOD.NAME=VALUE (causal.max_runs=100); repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first items.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--restart", help="Go on with OUT, or throw it away."),
    ] = True,
    retry_errors: Annotated[bool, typer.Option(help="Do failed items again.")] = False,
    as_json: Json = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of methods and metrics that draw.")] = 0,
    debug: Debug = False,
) -> None:
    """Measure explanation methods on your own images and questions.

    Every finished item is kept: after Ctrl-C, or a crash, the same command goes on.

    Example: causal-lvlm evaluate items.jsonl --methods relevancy,rise --out results.jsonl
    """
    if model is None:
        one_thread()
    elif jobs > 1:  # processes must not fight for cores
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with clear_errors(debug):
        items = read_items(data, prompt)
        spare([out], [data, *(Path(image) for item in items.values() for image in item["images"])])
        whole_number("--jobs", jobs, 1)
        chosen = dict(list(items.items())[:limit])
        config = _config(
            methods, metrics, option,
            units=units, masking=masking, model=model, revision=revision, dtype=dtype,
            max_new_tokens=max_new_tokens, seed=seed,
        )  # fmt: skip
        _remarks(chosen, config)
        loading = partial(_load, model, given(device=device, dtype=dtype, revision=revision))
        try:
            failed = _run(
                chosen, config, out, loading, jobs, restart=not resume, retry=retry_errors
            )
        except UnsavedError as error:
            if "key" not in error.line:
                raise
            _summary(out, chosen, config, as_json, [error.line])  # a disk may be full: print first
            raise
        _summary(out, chosen, config, as_json)
        if failed:
            raise typer.Exit(1)


def _config(methods: str, metrics: str, option: list[str] | None, **plain: Any) -> dict[str, Any]:
    """Return what the results depend on; unknown names are refused."""
    from causal_lvlm.checks import one_name, whole_number
    from causal_lvlm.methods.registry import method_name
    from causal_lvlm.metrics import metric_info
    from causal_lvlm.metrics.case import MASKINGS
    from causal_lvlm.units import units_name

    names = [method_name(name) for name in _split(methods, "method")]
    wanted = _split(metrics, "metric")
    for name in wanted:
        info = metric_info(name)
        if info.needs == "other":
            raise OptionError(
                f"{info.name} is no metric of one result on one target; call it from Python"
            )
        if "[" in name:
            masked = name.partition("[")[2].rstrip("] ")
            one_name(f"masking in {name!r}:", masked, {m: m for m in info.maskings or MASKINGS}, "")
    plain["masking"] = one_name("masking", plain["masking"], {m: m for m in MASKINGS}, "")
    whole_number("seed", plain["seed"], 0)
    whole_number("max_new_tokens", plain["max_new_tokens"], 1)
    plain["units"] = units_name(plain["units"])
    return {
        "methods": list(dict.fromkeys(names)),
        "metrics": list(dict.fromkeys(wanted)),
        "options": _options(option or [], names),
        **plain,
        "version": versions().get("causal-lvlm"),
    }


def _split(text: str, what: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise OptionError(f"no {what} was named")
    return names


def _options(given_options: list[str], methods: list[str]) -> dict[str, dict[str, Any]]:
    from causal_lvlm.checks import shown
    from causal_lvlm.methods.registry import check_method_options, method_name

    found: dict[str, dict[str, Any]] = {}
    for text in given_options:
        left, sign, value = text.partition("=")
        method, dot, name = left.partition(".")
        if not (sign and dot and name):
            raise OptionError(f"--option must be METHOD.NAME=VALUE, got {shown(text)}")
        method = method_name(method)
        if method not in methods:
            raise OptionError(
                f"--option must be METHOD.NAME=VALUE with a method of --methods, which {method!r} "
                f"is not: {shown(text)}"
            )
        try:
            read = json.loads(value)
        except json.JSONDecodeError:
            read = value
        found.setdefault(method, {})[name] = read
    for method, options in found.items():
        check_method_options(method, options)
    return found


def _remarks(items: dict[str, dict[str, Any]], config: dict[str, Any]) -> None:
    from causal_lvlm.metrics import metric_info

    regional = [m for m in config["metrics"] if metric_info(m).needs == "region"]
    without = sum(item["boxes"] is None for item in items.values())
    if regional and without:
        say(f"{without} of {len(items)} items have no boxes: {', '.join(regional)} left out there")


def _run(
    items: dict[str, dict[str, Any]], config: dict[str, Any], out: Path, loading: Setup, jobs: int,
    *, restart: bool, retry: bool,
) -> int:  # fmt: skip
    """Do the work; return how many of these items have failed, now or before."""
    import sys

    from tqdm import tqdm

    from causal_lvlm.cli.evaluate_item import evaluate_item
    from causal_lvlm.items_file import read_lines
    from causal_lvlm.runner import run_items

    with tqdm(total=len(items), file=sys.stderr, leave=False, unit="item") as bar:

        def show(key: str, done: int, total: int) -> None:
            bar.update(done - bar.n)
            bar.set_description_str(key, refresh=False)

        try:
            summary = run_items(
                items, partial(evaluate_item, config=config), out, config=config, jobs=jobs,
                setup=loading, restart=restart, retry_errors=retry, progress=show,
            )  # fmt: skip
        except KeyboardInterrupt:
            bar.close()
            say(
                f"causal-lvlm: interrupted; every finished item is in {out}, and the same command "
                "goes on"
            )
            raise typer.Exit(INTERRUPTED) from None
    for remark in summary.remarks:
        say(f"causal-lvlm: {remark}")
    if summary.skipped:
        say(f"{len(summary.skipped)} of {len(items)} items were there already")
    errors = [line for line in read_lines(out) if line["key"] in items and "error" in line]
    for line in errors[:5]:
        say(f"failed: {line['key']}: {line['error']['type']}: {line['error']['message']}")
    if errors:
        say(f"{len(errors)} of {len(items)} items failed; --retry-errors does them again")
    return len(errors)


def _load(model: str | None, options: dict[str, Any]) -> LVLM:
    import causal_lvlm as cl

    return cl.load_model(model, **options)


def _summary(
    out: Path, items: dict[str, dict[str, Any]], config: dict[str, Any], as_json: bool,
    unsaved: Sequence[dict[str, Any]] = (),
) -> None:  # fmt: skip
    """Print the summary of what is in the file, and of what could not be written to it."""
    from causal_lvlm.cli.evaluate_summary import check_line, summarise, table
    from causal_lvlm.items_file import read_lines

    found = {line["key"]: line for line in (*read_lines(out), *unsaved)}
    lines = [line for key, line in found.items() if key in items and "result" in line]
    for line in lines:
        check_line(line, config, out)
    for name in config["methods"]:
        failed = [(li["key"], e) for li in lines if "error" in (e := li["result"]["methods"][name])]
        if failed:
            key, entry = failed[0]
            say(
                f"{name} failed on {len(failed)} items, first on {key}: {entry['error']['message']}"
            )
    # Questions about one picture are not independent; one without a picture stands alone.
    clusters = {key: tuple(item["images"]) or key for key, item in items.items()}
    rows = summarise(lines, config, clusters)
    if as_json:
        typer.echo(json.dumps(to_jsonable(rows), ensure_ascii=False, indent=1))
    else:
        typer.echo(table(rows, len(lines)))
