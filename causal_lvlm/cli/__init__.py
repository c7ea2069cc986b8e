"""The command ``causal-lvlm`` and its subcommands.

1. Bad input ends with one line on stderr and exit code 2; ``--debug`` shows where it came from.
2. Results go to stdout, progress and remarks to stderr, so that ``--json`` can be piped.
3. The output folder is proven to be writable before any work starts.
4. Ctrl-C keeps what was found: it is written (or printed), and the exit code is 130. SIGTERM (143)
   and SIGHUP (129) do the same, see `causal_lvlm.cli.ending`.

Torch and transformers are imported inside the commands that need them: ``--help`` is instant.
Each command has a module of its own; `support` holds what they share.
"""

from __future__ import annotations

from collections.abc import Sequence

import typer

from causal_lvlm.cli import demo, evaluate, explain, learn, methods, models, report, serve
from causal_lvlm.cli.ending import told_to_end
from causal_lvlm.cli.streams import Commands, patient_streams
from causal_lvlm.cli.targets import default_target, find_target

__all__ = ["app", "default_target", "find_target", "main"]

app = typer.Typer(
    name="causal-lvlm",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Why did a vision-language model say that word? Finds the smallest set of image patches "
    "and words that the word depends on, and verifies it by running the model again with the set "
    "masked. Start with: causal-lvlm demo",
    epilog="Exit codes: 0; 1 an item of evaluate failed; 2 bad input; 130, 143 and 129 ended by "
    "Ctrl-C, SIGTERM and SIGHUP, with what was found kept.",
)
for command in (
    demo.demo, explain.explain, evaluate.evaluate, report.report, learn.learn, methods.methods,
    models.models,
):  # fmt: skip
    app.command()(command)
app.command("app")(serve.serve)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (entry point of the package)."""
    with told_to_end() as ending, patient_streams():
        try:
            app(args=None if arguments is None else list(arguments))
        except SystemExit as end:
            raise SystemExit(ending.code(end.code)) from None
