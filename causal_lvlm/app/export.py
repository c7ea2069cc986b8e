"""What a page hands out: the report, the numbers, the figures, as files in the page's folder."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from causal_lvlm.app.records import Asked
from causal_lvlm.app.room import Room
from causal_lvlm.app.session import Session
from causal_lvlm.errors import OutputError, PromptError, quoted
from causal_lvlm.storage import to_utf8, write_bytes

if TYPE_CHECKING:
    from causal_lvlm.attribution import Attribution
    from causal_lvlm.explanation import Explanation

__all__ = ["KINDS", "embedded", "export", "report_page"]

KINDS = ("report", "numbers", "figures")


def report_page(session: Session, asked: Asked) -> str:
    """Return the report of a run as text; it is one self-contained page.

    What explains the token that is looked at stands first.
    """
    from causal_lvlm.reporting import report

    chosen = asked.explanation()
    others = [found for found in asked.explanations.values() if found is not chosen]
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:  # two may be drawn at once
        path = report(
            asked.trace,
            [chosen, *others] if chosen is not None else others,
            Path(folder) / "shown.html",
            attributions=list(asked.attributions.values()),
        )
        return path.read_text("utf-8")


# Inside the app, question, answer and sentence stand above and beside the frame. The frame is as
# high as what is in it, so how much fits on the screen must not be asked of the frame.
_BEFORE = """<style>
html { overflow-y: hidden; }
body { padding: 0 !important; }
main { max-width: none !important; padding: 0 .5rem .5rem !important; }
.js main > h1, .js #app .answer-card, .js #app .sentence { display: none; }
</style>
<script>
Object.defineProperty(window, "innerHeight", { value: 580, configurable: true });
</script>
"""
_AFTER = """<script>
(() => {
  const main = document.querySelector("main") || document.body;
  const tell = () => {
    const height = Math.ceil(main.getBoundingClientRect().bottom + window.scrollY) + 12;
    window.parent.postMessage({ reportHeight: height }, "*");
  };
  new ResizeObserver(tell).observe(main);
  window.addEventListener("load", tell);
  tell();
})();
</script>
"""


def embedded(page: str) -> str:
    """Return a report that fits into a frame of the app and tells how high it is."""
    start, head, rest = page.partition("</head>")
    body, end, tail = rest.rpartition("</body>")
    return f"{start}{_BEFORE}{head}{body}{_AFTER}{end}{tail}"


def export(session: Session, asked: Asked, kind: str) -> list[Path]:
    """Write files and return their paths.

    Parameters
    ----------
    session : Session
    asked : Asked
    kind : {"report", "numbers", "figures"}
        One HTML page; explanations, attributions and the run as JSON; or everything as a ZIP.

    Raises
    ------
    PromptError
        If there is nothing to export yet.
    OutputError
        If the files cannot be written.
    ValueError
        If the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {quoted(kind)}")
    try:
        return _written(session, asked, kind)
    except OSError as error:  # OutputError among them, which names a path of the server
        reason = error.strerror or getattr(error.__cause__, "strerror", None)
        if reason is None:
            raise
        raise OutputError(
            f"the files could not be written ({reason}); what was found is still on this page"
        ) from error


def _written(session: Session, asked: Asked, kind: str) -> list[Path]:
    explanations = list(asked.explanations.values())
    if not explanations and kind != "numbers":
        raise PromptError("nothing is explained yet; choose a token of the answer first")
    session.bench.room.make()  # Gradio copies what is handed out
    Room(session.folder, session.bench.limits.page_disk).make()
    folder = session.runs.exported(asked.number)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "report":
        path = folder / "report.html"
        return [write_bytes(path, to_utf8(report_page(session, asked)))]
    if kind == "numbers":
        return _numbers(asked, folder)
    from causal_lvlm.viz import draw_explanation_figure, write_bundle

    inside = folder / "figures"
    written = write_bundle(asked.trace, explanations, list(asked.attributions.values()), inside)
    for number, found in enumerate(explanations):
        name = f"figure-{number + 1}-token-{found.target.start}"
        for kind in ("pdf", "svg"):  # what papers take
            path = inside / f"{name}.{kind}"
            written.append(draw_explanation_figure(found, path, trace=asked.trace))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in written:
            archive.write(file, file.name)
    return [write_bytes(folder / "figures.zip", packed.getvalue())]


def _numbers(asked: Asked, folder: Path) -> list[Path]:
    paths = [asked.trace.save(folder / "trace.json")]
    names: dict[str, Explanation | Attribution] = {}
    for number, explanation in enumerate(asked.explanations.values()):
        names["explanation.json" if not number else f"explanation-{number + 1}.json"] = explanation
    for scores in asked.attributions.values():
        names[f"{scores.method}-{scores.target.start}.json"] = scores
    paths += [found.save(folder / name) for name, found in names.items()]
    return paths + [p.with_suffix(".npz") for p in paths if p.with_suffix(".npz").is_file()]
