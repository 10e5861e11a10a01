"""The whole recipe in miniature: one command makes a folder that loads, and a kill in any stage changes nothing."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from demo_recipe import recipe, vocabulary
from glm_model.loading import load
from glm_model.training import pretraining


def miniature() -> recipe.Recipe:
    stages = tuple(
        replace(
            stage,
            exchanges=150,
            texts=20,
            training=replace(stage.training, steps=6, warmup_steps=2, decay_steps=2, checkpoint_every=2, short_steps=0),
        )
        for stage in recipe.STAGES
    )
    return recipe.Recipe(stages=stages, hidden_size=32, num_layers=1, num_attention_heads=2)


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "TEXT_PIECES", 1900)
    monkeypatch.setattr(recipe, "_VOCABULARY_TEXTS", 1500)


def test_a_run_that_is_killed_in_its_second_stage_ends_in_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.run(miniature(), tmp_path / "whole", tmp_path / "run")
    with monkeypatch.context() as patched:
        calls = itertools.count(1)
        step = pretraining._train_step

        def dying(*arguments: object) -> tuple[float, int, int]:
            if next(calls) == 10:
                raise KeyboardInterrupt
            return step(*arguments)  # type: ignore[arg-type]

        patched.setattr(pretraining, "_train_step", dying)
        with pytest.raises(KeyboardInterrupt):
            recipe.run(miniature(), tmp_path / "killed", tmp_path / "killed_run")
    assert not (tmp_path / "killed").exists()
    recipe.run(miniature(), tmp_path / "killed", tmp_path / "killed_run")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == ["config.json", "ice_text.model", "model.safetensors", "tokenizer_config.json"]
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_the_result_loads_and_knows_that_it_is_the_demo(tmp_path: Path) -> None:
    recipe.run(miniature(), tmp_path / "out", tmp_path / "run")
    model, tokenizer = load(tmp_path / "out", device="cpu")
    assert model.config.is_demo
    assert isinstance(model.chat(tokenizer, "hello", history=[], max_length=40)[0], str)
