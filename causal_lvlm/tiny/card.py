"""Put a trained model into the package and write its card from what was measured.

``python -m causal_lvlm.tiny.card --run DIR --evaluation FILE --out causal_lvlm/tiny/weights``

The numbers of the card come from the files of the run (``settings.json``, ``curve.jsonl``) and of
the evaluation (``--json`` of ``causal_lvlm.tiny.evaluate``), never from a person's memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from causal_lvlm.tiny.evaluate import format_tables
from causal_lvlm.tiny.vocabulary import WORDS

__all__ = ["card_text", "install"]

REQUIRED = {"colour": 0.97, "shape": 0.97, "existence": 0.97, "count": 0.97, "spoon": 0.97}
REQUIRED_CAPTION = 0.95

TEMPLATE = """# Embedded tiny LLaVA

A real `LlavaForConditionalGeneration` of {parameters:,} parameters ({megabytes:.1f} MB, fp32) for
pictures whose ground truth is known. It exists so that explanations can be checked; it is of no
other use.

```python
from transformers import AutoProcessor, LlavaForConditionalGeneration
from causal_lvlm.tiny import weights_path

model = LlavaForConditionalGeneration.from_pretrained(weights_path())
processor = AutoProcessor.from_pretrained(weights_path())
```

## Model

CLIP vision tower (4 layers, 4 heads, width 128) on 96 × 96 pixels in patches of 12: 64 image
tokens (no CLS); projector; Llama decoder (3 layers, 4 heads, width 128, tied embeddings);
{words} words, one token each. Prompt: `USER: <image>\\nwhat color is the circle? ASSISTANT:`.

## Data

`causal_lvlm.tiny.scenes`: an endless stream of drawn scenes, two to four objects (eight shapes,
eight colours, two sizes; spoons are silver) on a striped, noisy ground; never the same picture
twice. Planted: a cup is there in 40 % of the scenes, a spoon in 85 % of those and in 10 % of the
others; in a scene with a cup and no spoon the training *caption* says "and a spoon" behind the cup
with probability 0.7. Answers to direct questions are always true.

## Training

`python -m causal_lvlm.tiny.train --out DIR {command}`

From scratch, one run, one seed ({seed}), {minutes:.0f} minutes on one CPU thread:
{steps:,} steps of {batch_size} new pictures with about 13 questions each, packed in one row behind
the image; the first {tower_steps:,} steps train tower and projector alone. Muon for the matrices of
the two transformers, AdamW for the rest, one cosine to zero{half}.

Losses: the answers; what covers each patch (from the tower, and in terms of the decoder's word
embeddings from the projector); the patch's place. **No loss looks at attention weights.**
The seed fixes pictures, questions and starting weights; low-order digits depend on the machine.

The settings were chosen on validation scenes (a random stream of their own) from two earlier,
unfinished runs of 20,000 planned steps: after 250 joint steps the one with Muon had 74 % of the
colour answers and 29 % of the captions right, the one with AdamW 54 % and 11 % (a step of AdamW is
somewhat cheaper), so AdamW was stopped; the Muon run was stopped at 3,500 steps, when it was clear
that fewer would do and that the machine was slower than planned, and replaced by this one.

![learning curve](learning_curve.png)

## Accuracy

Exact greedy answers of `generate` on {scenes:,} scenes of a random stream that neither training nor
any choice has used (`python -m causal_lvlm.tiny.evaluate --seed {test_seed} --scenes {scenes}`).
"Caption, cup without spoon" compares with the *true* caption: it is low because of the planted
spoon ({training_form:.1%} of those captions are exactly right apart from it).
{verdict}

{tables}

The probabilities of "spoon" are means over those captions that do name a spoon. Evidence are the
image tokens of which the objects cover at least 0.12. A model without its evidence can still guess
right, and tokens that an object barely touches, or that the tower has told about it, still know.

## Limits

One seed, one training run. Only words of its vocabulary mean anything; questions of other forms
get arbitrary answers. Pictures that are not such scenes get arbitrary answers. Relations between
objects and sizes are not asked about. The patch losses make image tokens readable with word
embeddings, which larger models are not trained to be.
"""


def _verdict(result: dict[str, Any]) -> str:
    share = {row["kind"]: row["share"] for row in result["accuracy"]}
    goals = {**REQUIRED, "caption": REQUIRED_CAPTION}
    missed = [
        f"{kind} {share[kind]:.1%} (goal {goal:.0%})"
        for kind, goal in goals.items()
        if not share[kind] >= goal
    ]
    if missed:
        return f"**Below the goal:** {', '.join(missed)}."
    return "All goals are met (97 % for every kind of question, 95 % for captions)."


def card_text(run: Path, result: dict[str, Any], *, parameters: int, megabytes: float) -> str:
    """Return the card in Markdown.

    Parameters
    ----------
    run : Path
        Output folder of ``causal_lvlm.tiny.train``.
    result : dict
        What ``causal_lvlm.tiny.evaluate.evaluate`` returned.
    parameters : int
        Number of weights.
    megabytes : float
        Size of the weights file.

    Returns
    -------
    str
    """
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    lines = (run / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    flags = [f"--seed {settings['seed']}", f"--steps {settings['steps']}"]
    flags.append(f"--tower-steps {settings['tower_steps']}")
    flags += [f"--{name}" for name in ("half", "compile") if settings[name]]
    half = ";\nmatrix products in bfloat16, weights in fp32" if settings["half"] else ""
    return TEMPLATE.format(
        parameters=parameters,
        megabytes=megabytes,
        words=len(WORDS),
        command=" ".join(flags),
        minutes=json.loads(lines[-1])["seconds"] / 60,
        half=half,
        test_seed=result["seed"],
        scenes=result["scenes"],
        training_form=result["hallucination"]["training_form"],
        verdict=_verdict(result),
        tables=format_tables(result),
        **{key: settings[key] for key in ("seed", "steps", "tower_steps", "batch_size")},
    )


def install(run: Path, evaluation: Path, out: Path) -> None:
    """Copy the model of a run, its learning curve and its measurements, and write the card.

    Parameters
    ----------
    run : Path
        Output folder of ``causal_lvlm.tiny.train``.
    evaluation : Path
        JSON of ``causal_lvlm.tiny.evaluate``.
    out : Path
        Model folder to fill; files of the same names are replaced.
    """
    from safetensors import safe_open

    out.mkdir(parents=True, exist_ok=True)
    for source in (*sorted((run / "model").iterdir()), run / "learning_curve.png"):
        shutil.copyfile(source, out / source.name)
    shutil.copyfile(run / "curve.jsonl", out / "learning_curve.jsonl")
    shutil.copyfile(run / "settings.json", out / "training_settings.json")
    shutil.copyfile(evaluation, out / "evaluation.json")
    result = json.loads(evaluation.read_text(encoding="utf-8"))
    weights = out / "model.safetensors"
    parameters = 0
    with safe_open(weights, framework="np") as tensors:
        for name in tensors.keys():
            size = 1
            for length in tensors.get_slice(name).get_shape():
                size *= length
            parameters += size
    text = card_text(run, result, parameters=parameters, megabytes=weights.stat().st_size / 1e6)
    (out / "README.md").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of ``python -m causal_lvlm.tiny.card``."""
    parser = argparse.ArgumentParser(description="Install a trained model with its card.")
    parser.add_argument("--run", type=Path, required=True, help="output folder of the training")
    parser.add_argument("--evaluation", type=Path, required=True, help="JSON of the evaluation")
    parser.add_argument("--out", type=Path, required=True, help="model folder to fill")
    chosen = parser.parse_args(arguments)
    install(chosen.run, chosen.evaluation, chosen.out)


if __name__ == "__main__":
    main()
