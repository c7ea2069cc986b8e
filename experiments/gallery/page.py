"""The gallery's page, from the saved JSON alone: every sentence with a number is made here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from causal_lvlm.storage import read_json
from experiments.common.provenance import at_commit
from experiments.common.tables import fill, markdown

PAGE = Path(__file__).resolve().parent / "README.md"
RESULTS = PAGE.parent / "results"
SCOPES = {"joint": "image and text", "image": "the image alone", "text": "the text alone"}
MINIMALITY = {
    "minimum": "no smaller one does it",
    "irreducible": "no member can be left out; a smaller one not ruled out",
    "none": "not shrunk",
}
COLOURS = (
    "Yellow cells have the method's highest scores, dark blue its lowest, each map on its own "
    "scale; rows and columns are numbered as in the text."
)


def render(out: Path) -> None:
    """Write the page, if these are its results."""
    saved = read_json(out / "gallery.json", "gallery")
    if out.resolve() == RESULTS:
        fill(PAGE, texts(saved))


def texts(saved: dict[str, Any]) -> dict[str, str]:
    """Return the blocks of the page by name."""
    found = saved["entries"]
    return {
        "command": command(saved), "colour": colour(found["colour"]),
        "hallucination": hallucination(found["hallucination"]),
        "several": several(found["several"]), "methods": methods(found["methods"]),
        "questions": questions(found["questions"]), "loses": loses(found["loses"]),
        "screenshots": screenshots(saved["screenshots"]),
    }  # fmt: skip


# -- pieces of a sentence -------------------------------------------------------------------------


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


def named(rows: Sequence[dict[str, Any]]) -> str:
    """Name the methods of some rows."""
    return listed([f"`{row['method']}`" for row in rows])


def of_set(names: Sequence[str]) -> str:
    """Name the members of a set."""
    words = [n for n in names if n.startswith("“")]
    patches = [n for n in names if n not in words]
    said = []
    if patches:
        said.append(f"patch{'es' * (len(patches) > 1)} {', '.join(patches)}")
    if words:
        said.append(f"the word{'s' * (len(words) > 1)} {listed(words)}")
    return " and ".join(said)


def percent(value: float) -> str:
    return f"{value:.2f}"


def asked(entry: dict[str, Any]) -> str:
    return f"> {entry['question']}\n>\n> **{entry['answer']}**"


def picture(file: str, alt: str, caption: str) -> str:
    plain = alt.replace("[", "(").replace("]", ")")  # brackets would end it
    return f"![{plain}](results/{file}.png)\n\n*{caption}*"


def scopes(entry: dict[str, Any]) -> str:
    """Return the table of the sets by what could be masked."""
    rows = []
    for scope, found in entry["sets"].items():
        before = found["before"]
        if not found["verified"]:
            why = (
                "none found: masking all of it does not change the answer"
                if found["outcome"] in ("not_maskable", "not_found")
                else f"none found ({found['outcome']})"
            )
            rows.append([SCOPES[scope], why, "", "", "", "", str(found["runs"])])
            continue
        rows.append([
            SCOPES[scope], of_set(found["set"]), f"“{found['says']}”",
            f"{percent(before)} → {percent(found['after'])}",
            MINIMALITY[found["minimality"]] if len(found["set"]) > 1 else "",
            "{} of {}".format(*found["controls"]) if found["controls"][1] else "",
            str(found["runs"]),
        ])  # fmt: skip
    heads = (
        "what may be masked", "smallest verified set", "with it masked it says",
        f"p of “{entry['target']}”", "smaller?", "random sets of that size that change it",
        "model runs",
    )  # fmt: skip
    return plain_table(heads, rows)


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of words, aligned to the left."""
    return markdown(heads, rows).replace("---:", "---")


def budget_table(entry: dict[str, Any], before: float) -> str:
    """Return what each method's best units do when they are masked."""
    rows = [
        [f"`{r['method']}`", ", ".join(r["top"]), f"“{r['says']}”",
         "**yes**" if r["changed"] else "no", f"{percent(before)} → {percent(r['p'])}",
         cost(r)]
        for r in entry["methods"]
    ]  # fmt: skip
    heads = ("method", "masked", "it says", "changed", f"p of “{entry['target']}”",
             "passes of the method")  # fmt: skip
    return plain_table(heads, rows)


def cost(row: dict[str, Any]) -> str:
    return f"{row['runs']} forward" + f", {row['backward']} backward" * bool(row["backward"])


def metric_table(entry: dict[str, Any]) -> str:
    """Return every method's metrics; the best of a column is bold."""
    best = [
        (max if better == "higher" else min)(round(r["metrics"][k], 3) for r in entry["methods"])
        for k, better in enumerate(entry["better"])
    ]
    rows = []
    for r in entry["methods"]:
        cells = [f"{v:.3f}".replace("-0.000", "0.000") for v in r["metrics"]]
        rows.append([
            f"`{r['method']}`",
            *(f"**{c}**" if round(v, 3) == b else c
              for c, v, b in zip(cells, r["metrics"], best, strict=True)),
            cost(r),
        ])  # fmt: skip
    arrows = {"higher": "↑", "lower": "↓"}
    named = zip(entry["metrics"], entry["better"], strict=True)
    return markdown(["method", *(f"{m} {arrows[b]}" for m, b in named), "passes"], rows)


def standing(entry: dict[str, Any], name: str) -> str:
    """Say how many methods have a better value than one, metric by metric."""
    mine = next(r for r in entry["methods"] if r["method"] == name)
    said = []
    for k, (metric, better) in enumerate(zip(entry["metrics"], entry["better"], strict=True)):
        sign = 1 if better == "higher" else -1
        ahead = sum(
            sign * round(r["metrics"][k], 3) > sign * round(mine["metrics"][k], 3)
            for r in entry["methods"]
        )
        said.append(f"{metric} {ahead}")
    return ", ".join(said)


# -- blocks ---------------------------------------------------------------------------------------


def command(saved: dict[str, Any]) -> str:
    names = saved["versions"]
    used = ", ".join(f"{n} {names[n]}" for n in ("python", "torch", "transformers") if n in names)
    return (
        f"```\n{saved['command']}\n```\n\n"
        f"asks the embedded model (`{saved['model']}`), verifies and draws everything below in "
        f"{saved['processor_seconds']} seconds of one processor thread ({saved['seconds']} by the "
        f"clock of a shared machine, screenshots apart): no GPU, no network; seed {saved['seed']}, "
        f"{used}{at_commit(saved)}. Every number of this page is in "
        "[results/gallery.json](results/gallery.json); `--render` writes the page again from that "
        "file, without a model."
    )


def colour(entry: dict[str, Any]) -> str:
    sets = entry["sets"]
    return "\n\n".join([
        asked(entry), entry["sentence"],
        picture(
            "colour",
            f"The question with {of_set(sets['text']['set'])} marked; below the picture with "
            f"{of_set(sets['image']['set'])} outlined.",
            f"Above: prompt and answer; orange is the set in the text, blue the word explained. "
            f"Below: the set in the image, {of_set(sets['image']['set'])} (row and column, "
            "counted from 0).",
        ),
        scopes(entry),
        "The smallest set of all is often a word of the question: true, and not what somebody "
        "asks who looks at the picture. So each explanation has three sets.",
    ])  # fmt: skip


def hallucination(entry: dict[str, Any]) -> str:
    main, rows = entry["sets"]["joint"], entry["methods"]
    wrong = [r for r in rows if not r["changed"]]
    right = [r for r in rows if r["changed"]]
    own = (
        "a word that the model itself wrote just before"
        if all(entry["written"])
        else "not only words that the model itself wrote"
    )
    budget = "unit" if entry["size"] == 1 else f"{entry['size']} units"
    misled = (
        f"{named(wrong)} point elsewhere: with "
        f"their first {budget} masked the model still says “{entry['target']}”. "
        if wrong
        else ""
    )
    agree = (
        f"{named(right)} change the answer too, for "
        f"{listed([str(r['runs']) for r in right])} forward passes; the verified search "
        f"took {entry['runs']} masked runs, controls included, beside its own passes for "
        "attention and gradients."
        if right
        else ""
    )
    return "\n\n".join([
        asked(entry),
        f"True would be: {entry['true']}. **There is no {entry['target']} in the picture.** Asked "
        f"directly, “{entry['asked']}”, the model answers “{entry['denied']}”.",
        entry["sentence"],
        picture(
            "hallucination",
            f"The picture without a {entry['target']}; marked is {of_set(main['set'])} in the "
            "model's own answer; beside it the causal graph over patches and words.",
            f"Left: the explaining set, {of_set(main['set'])}, {own}. Right: the learned graph "
            "around the word explained (blue), nodes at their patches and words (at most "
            f"{entry['shown']}: the word, the set, then the nearest); a circle at the "
            "end of a line is an undetermined mark, an arrowhead means “not a cause of the other "
            "end”.",
        ),
        scopes(entry),
        in_image(entry),
        "What would a map have said? The same budget for every method, its own highest "
        f"{budget} masked:",
        budget_table(entry, main["before"]),
        (misled + agree).strip(),
        picture(
            "hallucination-maps",
            f"Maps of {listed([r['method'] for r in rows[:3]])} over the picture, with the best "
            f"{budget} outlined where it is a patch, and what the model says without it.",
            f"Three maps that cost one or two passes, and what masking their first {budget} "
            f"does. {COLOURS}",
        ),
    ])  # fmt: skip


def in_image(entry: dict[str, Any]) -> str:
    """Say what the image alone does: masking all of it, and the set that was found in it."""
    image, whole = entry["sets"]["image"], entry["whole_image"]
    text = (
        f"With **all** image tokens masked the model still says “{whole['says']}” (p "
        f"{percent(image['before'])} → {percent(whole['p'])})"
    )
    if not image["verified"]:
        return f"{text}, and no part of the image was found that changes it."
    return (
        f"{text}; with {of_set(image['set'])} masked it says “{image['says']}” (p → "
        f"{percent(image['after'])}). Effects of masking need not add up: what the whole image "
        "does says nothing about its parts."
    )


def several(entry: dict[str, Any]) -> str:
    main = entry["sets"]["joint"]
    depths = [d for d in entry["depths"] if d is not None]
    where = (
        f"The PDS-tree holds the whole set, up to radius {entry['radius']}."
        if entry["found_by"] == "graph"
        else f"The PDS-tree holds {len(depths)} of the set's {len(entry['depths'])} members; the "
        "search found the others in another order."
    )
    return "\n\n".join([
        asked(entry), entry["sentence"],
        picture(
            "several",
            f"The picture with {of_set(main['set'])} outlined; beside it the causal graph with "
            f"its nodes at their patches and words, around “{entry['target']}”.",
            f"Left: the explaining set of the last word, {of_set(main['set'])}. Right: the graph "
            f"on the picture; {entry['nodes']} tokens were nodes, {entry['edges']} pairs have an "
            f"edge, {entry['neighbours']} of them with “{entry['target']}” (blue). At most "
            f"{entry['shown']} nodes are drawn: the word, the set, then the nearest.",
        ),
        picture(
            "several-tree",
            f"The PDS-tree of “{entry['target']}”: candidate causes on rings by radius, members "
            "of the set in orange.",
            f"The candidates that the graph proposes, by distance: {entry['tree']} of the "
            f"{entry['nodes'] - 1} other tokens, up to radius {entry['deepest']}; drawn "
            f"up to radius {entry['drawn']}. A node stands there once for every way to reach it.",
        ),
        where,
        scopes(entry),
    ])  # fmt: skip


def methods(entry: dict[str, Any]) -> str:
    changed = named([r for r in entry["methods"] if r["changed"]])
    most = min(entry["methods"], key=lambda r: r["p"])
    return "\n\n".join([
        asked(entry),
        f"Only patches may be masked here. The verified set has {entry['size']} of them: "
        f"{of_set(entry['sets']['image']['set'])}. Every other method gets the same budget, its "
        f"{entry['size']} highest patches:",
        picture(
            "methods",
            f"The picture and {len(entry['methods'])} maps with the {entry['size']} highest "
            "patches of each outlined, and what the model says without them.",
            f"Below each map: its {entry['size']} highest patches (row, column), what the model "
            f"says with them masked, and the probability of “{entry['target']}”. {COLOURS}",
        ),
        f"The answer changes for {changed}. The probability falls most for "
        f"`{most['method']}` ({percent(entry['before'])} → {percent(most['p'])}). The metrics ask "
        "more of a ranking than its first patches:",
        metric_table(entry),
        f"How many of the others are better than `causal`: {standing(entry, 'causal')}. One "
        "picture decides nothing; [the leaderboard](../leaderboard/README.md) has 300 targets.",
    ])  # fmt: skip


def questions(entry: dict[str, Any]) -> str:
    a, b = entry["sides"]
    said = [
        f"**{name}**: {side['question']} **{side['answer']}**. In the image: "
        f"{of_set(side['sets']['image']['set']) or 'no set'}; in the text: "
        f"{of_set(side['sets']['text']['set']) or 'no set'}."
        for name, side in (("A", a), ("B", b))
    ]
    return "\n\n".join([
        *said,
        picture(
            "questions",
            f"The same picture twice: for the first question "
            f"{of_set(a['sets']['image']['set'])} outlined, for the second "
            f"{of_set(b['sets']['image']['set'])}.",
            "The smallest verified set of patches of each answer.",
        ),
        picture(
            "questions-graphs",
            f"The difference of the two graphs around the answer: {entry['both']} edges in both, "
            f"{entry['first']} only in A, {entry['second']} only in B.",
            f"The two learned graphs over the same tokens: {entry['both']} edges in both (grey), "
            f"{entry['first']} only in A (orange, dashed), {entry['second']} only in B (blue, "
            f"dotted); they differ in {entry['shd']} pairs of {entry['nodes']} tokens. Patches "
            "are named by row and column.",
        ),
    ])  # fmt: skip


def course(values: Sequence[float]) -> str:
    """Say how a probability goes along a deletion curve."""
    below = next((k for k, v in enumerate(values) if v < 0.5), None)
    if below is None:
        return f"never falls below 0.5 (least {percent(min(values))})"
    later = max(range(below, len(values)), key=lambda k: values[k])
    said = f"falls below 0.5 with {below} unit{'s' * (below != 1)} masked"
    if values[later] < 0.5:
        return said + f" and stays there (at most {percent(values[later])} later)"
    return said + f", and is back at {percent(values[later])} with {later} masked"


def changed_since(entry: dict[str, Any]) -> str:
    """Say so where this run does not repeat the leaderboard's values; else empty."""
    place = entry["metrics"].index("deletion")
    then, now = [], []
    for row in entry["methods"]:
        then.append(entry["rule"]["leaderboard"][row["method"]]["deletion"])
        now.append(row["metrics"][place])
    if all(abs(a - b) <= 0.02 for a, b in zip(then, now, strict=True)):
        return ""
    names = [f"`{row['method']}`" for row in entry["methods"]]
    old = listed([f"{v:.3f} ({name})" for v, name in zip(then, names, strict=True)])
    return f"\n\n(The leaderboard measured a deletion of {old}: a method has changed since.)"


def loses(entry: dict[str, Any]) -> str:
    rule, (mine, other) = entry["rule"], entry["methods"]
    same = set(mine["top"]) == set(other["top"])
    image = entry["sets"].get("image", {})
    whole = entry["whole_image"]
    none = (
        "In the image alone **no** set was found: with all of it masked the model still says "
        f"“{whole['says']}” (p {percent(whole['p'])}).\n\n"
        if image.get("outcome") in ("not_maskable", "not_found")
        else ""
    )
    return "\n\n".join([
        f"Chosen by a rule: of the {rule['targets']} targets of the "
        "[leaderboard](../leaderboard/README.md) that change when everything is masked, the one "
        "where the deletion of `causal` (lower is better) is furthest behind the best of the "
        f"{rule['others']} methods measured on all of them: target {rule['key']}, "
        f"`{rule['best']}`. On {rule['behind']} of these targets at least one of the methods has "
        f"a lower deletion than `causal`; `{rule['best']}` has on {rule['behind_best']}.",
        asked(entry), entry["sentence"], none + picture(
            "loses",
            f"Maps of causal and {other['method']}, and the probability of "
            f"“{entry['target']}” while units are masked in the order of each.",
            f"Left and middle: both maps with their first {entry['size']} units. Right: the "
            f"probability of “{entry['target']}” while all {entry['units']} units are masked, best "
            "first: the area below the line is the deletion metric, and lower is better. "
            f"{COLOURS}",
        ),
        metric_table(entry) + changed_since(entry),
        ("Both begin with the same units. " if same else "")
        + f"Along `causal` the probability {course(entry['curves'][0])}; along "
        f"`{other['method']}` it {course(entry['curves'][1])}. The set is verified either way; but "
        "a set is no ranking: what comes after it is ordered by other sets met on the way, the "
        "graph and attention, and masking more can bring an answer back.",
    ])  # fmt: skip


def screenshots(shots: dict[str, Any] | None) -> str:
    if shots is None:
        return (
            "No pictures of them were taken yet: `python -m experiments.gallery.run "
            "--screenshots` takes them where Playwright and a Chromium are installed."
        )
    when = (
        "taken by the same command with `--screenshots`"
        if shots["by_this_run"]
        else f"kept from an earlier run with `--screenshots`, {shots['taken']}"
    )
    return "\n\n".join([
        f"The pictures are {when} (Chromium, {shots['width']} × {shots['height']}).",
        *(picture(s["file"], s["alt"], s["caption"]) for s in shots["pictures"]),
    ])  # fmt: skip
