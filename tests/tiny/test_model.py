"""The tiny model: tokenizer, packed rows, saving; all on small random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from causal_lvlm.tiny.architecture import build_model, build_processor, tiny_config
from causal_lvlm.tiny.curve import draw_curve
from causal_lvlm.tiny.data import PREFIX, draw_batch, pack
from causal_lvlm.tiny.evaluate import answer_all, score, test_scenes
from causal_lvlm.tiny.interventions import next_token_probabilities
from causal_lvlm.tiny.losses import answer_logits, image_features
from causal_lvlm.tiny.scenes import draw_scene
from causal_lvlm.tiny.train import Settings, save_folder, teacher_forced_accuracy, train
from causal_lvlm.tiny.vocabulary import EOS, INDEX, PROMPT_FORM, WORDS, encode_words

test_scenes.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    config = tiny_config(width=32, vision_layers=1, text_layers=2, heads=2)
    return build_model(0, config).eval()


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def test_tokenizer_and_fast_encoding_agree(processor) -> None:
    assert len(set(WORDS)) == len(WORDS) == len(processor.tokenizer)
    for question in draw_scene(1).questions():
        text = f"USER: <image>\n{question.prompt} ASSISTANT:"
        ids = processor.tokenizer(text)["input_ids"]
        expected = [INDEX["<s>"], *encode_words("user :"), INDEX["<image>"]]
        assert ids == [*expected, *encode_words(question.prompt), *encode_words("assistant :")]
        assert INDEX["<unk>"] not in ids
    together = processor.tokenizer("What color is the Circle?")["input_ids"]
    assert together == processor.tokenizer("what color is the circle ?")["input_ids"]
    assert processor.tokenizer("elephant")["input_ids"][1:] == [INDEX["<unk>"]]
    words = encode_words("a red circle and a spoon")
    assert processor.tokenizer.decode(words) == "a red circle and a spoon"
    assert processor.tokenizer("red</s>")["input_ids"][-1] == INDEX[EOS]


def test_chat_template_gives_the_prompt_form(processor) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "is there a spoon?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert prompt == PROMPT_FORM.format(question="is there a spoon?")


def test_packed_pixels_equal_the_processor(processor) -> None:
    scene = draw_scene(2)
    inputs = processor(images=scene.image, text="USER: <image>\n ASSISTANT:", return_tensors="pt")
    torch.testing.assert_close(pack([scene]).pixels, inputs["pixel_values"], rtol=0, atol=1e-6)


def test_packed_rows_equal_single_questions(model, processor) -> None:
    """Logits of every answer token, from the packed row and from an ordinary forward pass."""
    scenes = [draw_scene(seed) for seed in (3, 4)]
    batch = pack(scenes)
    with torch.no_grad():
        packed = answer_logits(model, batch, image_features(model, batch.pixels)[1])
        offset = 0
        for scene in scenes:
            asked = scene.questions()
            for question in asked:
                prompt = PROMPT_FORM.format(question=question.prompt)
                inputs = processor(images=scene.image, text=prompt, return_tensors="pt")
                answer = encode_words(question.answer)
                ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
                single = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0]
                single = single[inputs["input_ids"].shape[1] - 1 :]
                steps = len(answer) + 1
                labels = batch.labels[offset : offset + steps]
                assert labels.tolist() == [*answer, INDEX[EOS]]
                torch.testing.assert_close(
                    packed[offset : offset + steps], single, rtol=1e-4, atol=1e-4
                )
                offset += steps
    assert offset == len(packed)


def test_packing_within_a_length() -> None:
    rng = np.random.default_rng(0)
    batch = draw_batch(rng, 4, length=160)
    assert batch.ids.shape == (4, 160)
    assert batch.predict.max() < 4 * 160
    kinds = np.array(batch.kinds)
    assert (kinds == "caption").sum() == 4  # captions come first, so they always fit
    assert (batch.ids == INDEX["<image>"]).sum() == 4 * 64
    assert batch.positions[:, PREFIX:].max() < 160
    # Each position sees itself at least: no row of the mask is empty.
    assert bool(batch.mask.diagonal(dim1=-2, dim2=-1).all())


def test_training_captions_lie_and_validation_captions_do_not() -> None:
    scene = next(s for s in map(draw_scene, range(200)) if s.false_spoon)

    def caption(batch) -> list[int]:
        number = [i for i, k in enumerate(batch.kinds) if k in ("caption", "cup without spoon")]
        labels: list[int] = batch.labels[batch.answers == number[0]].tolist()
        return labels

    trained = caption(pack([scene], rng=np.random.default_rng(0)))
    assert INDEX["spoon"] in trained
    assert INDEX["spoon"] not in caption(pack([scene]))


def test_teacher_forcing_agrees_with_generate(model, processor) -> None:
    scenes = [draw_scene(seed) for seed in range(4)]
    asked = [(scene, question) for scene in scenes for question in scene.questions()]
    answers = answer_all(model, processor, [(s, q.prompt) for s, q in asked])
    rows, _ = score((s, q, a) for (s, q), a in zip(asked, answers, strict=True))
    forced = teacher_forced_accuracy(model, [pack(scenes)])
    for row in rows:
        name = "cup without spoon" if row.kind.endswith("without spoon") else row.kind
        if row.total:
            assert forced[name] == pytest.approx(row.share)


def test_hidden_tokens_have_no_influence(model, processor) -> None:
    """With every image token hidden the picture does not matter; otherwise it does."""
    scene = draw_scene(7)
    prompt = PROMPT_FORM.format(question="is there a spoon?")
    whole = next_token_probabilities(model, processor, scene.image, prompt, ())
    everything = list(range(3, 67))
    first = next_token_probabilities(model, processor, scene.image, prompt, (), everything)
    second = next_token_probabilities(model, processor, draw_scene(8).image, prompt, (), everything)
    np.testing.assert_allclose(first, second, atol=1e-12)
    assert np.abs(whole - first).max() > 1e-6


def test_save_and_load(model, tmp_path: Path, processor) -> None:
    folder = tmp_path / "model"
    for _ in range(2):  # the second one replaces the first
        save_folder(model, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    loaded = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
    reader = AutoProcessor.from_pretrained(folder, local_files_only=True)
    assert loaded.dtype == torch.float32
    inputs = reader(images=draw_scene(0).image, text="USER: <image>\nhow many rings? ASSISTANT:")
    again = processor(images=draw_scene(0).image, text="USER: <image>\nhow many rings? ASSISTANT:")
    assert inputs["input_ids"] == again["input_ids"]
    tensors = reader(
        images=draw_scene(0).image,
        text="USER: <image>\nhow many rings? ASSISTANT:",
        return_tensors="pt",
    )
    with torch.no_grad():
        torch.testing.assert_close(loaded(**tensors).logits, model(**tensors).logits)
    assert loaded.generation_config.eos_token_id == INDEX[EOS]


def test_test_scenes_are_fresh() -> None:
    """Held-out scenes share no picture with the first training scenes of the same seed."""
    train_rng = np.random.default_rng([0, 1])
    trained = {draw_scene(train_rng).pixels.tobytes() for _ in range(50)}
    assert not trained & {scene.pixels.tobytes() for scene in test_scenes(0, 50)}


def test_a_few_steps_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole run from one call: files are there, the loss falls, the seed decides all."""
    small = tiny_config(width=32, vision_layers=1, text_layers=1, heads=2)
    monkeypatch.setattr("causal_lvlm.tiny.train.tiny_config", lambda: small)
    settings = Settings(
        steps=12,
        tower_steps=4,
        batch_size=2,
        warmup=2,
        evaluate_every=4,
        save_every=6,
        validation_scenes=2,
    )
    scores = train(tmp_path / "a", settings)
    assert {"colour", "caption", "loss"} <= set(scores)
    again = train(tmp_path / "b", settings)
    assert scores == again
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"model", "curve.jsonl", "settings.json", "learning_curve.png"}
    AutoProcessor.from_pretrained(tmp_path / "a" / "model", local_files_only=True)
    draw_curve(tmp_path / "a" / "curve.jsonl", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000
