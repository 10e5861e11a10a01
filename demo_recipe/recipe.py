"""Train the demo model: corpus, vocabulary, examples, training, and a folder in the published layout."""

import json
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.text.chat_format import build_prompt
from glm_model.text.tokenizer import ChatGLMTokenizer
from glm_model.training.initialization import deepnorm_initialize
from glm_model.training.objective import Example, SpecialIds, answer_example, blank_infilling, fill_example
from glm_model.training.pretraining import PretrainingOptions, pretrain

from . import corpus, vocabulary
from .exchange import Exchange
from .tasks.blanks import MASK

_VOCABULARY_TEXTS = 60_000
_TOKENIZER_CONFIG = {
    "name_or_path": "glm-demo",
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "end_token": "</s>",
    "gmask_token": "[gMASK]",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "num_image_tokens": 0,
}


@dataclass(frozen=True)
class Stage:
    """A part of the training, with a corpus of its own.

    Attributes:
        seed: the seed of the corpus.
        exchanges: the number of exchanges in the corpus.
        texts: the number of texts for blank infilling.
        mixture: the proportions of the exchanges.
        training: the options of the training.
        after: the numbers, from 1, of the stages whose mean weights this stage starts from; empty: the stage before.
    """

    seed: int
    exchanges: int
    texts: int
    mixture: corpus.Mixture
    training: PretrainingOptions
    after: tuple[int, ...] = ()

    def instructions(self) -> Iterator[Exchange]:
        """Return the exchanges of this stage's corpus."""
        return corpus.exchanges(self.seed, self.exchanges, self.mixture)


def _training(
    steps: int, learning_rate: float, warmup_steps: int, decay_steps: int | None = None, **first: int
) -> PretrainingOptions:
    """Return the options of a stage. The learning rate decays after the warm-up, or over the last `decay_steps`."""
    return PretrainingOptions(
        steps=steps,
        tokens_per_batch=3072,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps - warmup_steps if decay_steps is None else decay_steps,
        bfloat16=True,
        checkpoint_every=100,
        **first,
    )


_SHORT_FIRST = {"short_steps": 1200, "short_length": 44}
STAGES = (
    Stage(1, 240_000, 33_000, corpus.FIRST, _training(3200, 3e-3, 150, decay_steps=800, **_SHORT_FIRST)),
    Stage(2, 190_000, 9_000, corpus.SECOND, _training(2500, 2e-3, 50)),
    Stage(3, 150_000, 3_000, corpus.THIRD, _training(1800, 1.2e-3, 30)),
    Stage(4, 90_000, 2_000, corpus.FOURTH, _training(900, 9e-4, 20)),
    Stage(4, 100_000, 2_000, corpus.FIFTH, _training(1000, 1e-3, 20), after=(3,)),
    Stage(5, 60_000, 1_000, corpus.SIXTH, _training(500, 7e-4, 10)),
    Stage(6, 90_000, 1_000, corpus.SEVENTH, _training(800, 7e-4, 20), after=(4, 5, 6)),
    Stage(7, 60_000, 500, corpus.EIGHTH, _training(550, 8e-4, 10)),
)


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the resulting model.

    Attributes:
        averaged: pairs of a stage, counted from 1, and its weight in the mean of weights that is the final model. Each
            stage is weak at something else, and the mean is better than any ("model soups", arXiv:2203.05482).
    """

    stages: tuple[Stage, ...] = STAGES
    averaged: tuple[tuple[int, int], ...] = ((4, 7), (5, 7), (6, 7), (7, 18), (8, 21))
    hidden_size: int = 256
    num_layers: int = 5
    num_attention_heads: int = 8
    max_sequence_length: int = 1024


def train_vocabulary(recipe: Recipe, folder: Path) -> ChatGLMTokenizer:
    """Write ``ice_text.model``, unless it exists, and ``tokenizer_config.json``, and return the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ice_text.model"
    if not path.exists():
        path.write_bytes(vocabulary.train(_vocabulary_texts(recipe)))
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG, indent=2) + "\n", encoding="utf-8")
    return ChatGLMTokenizer.from_pretrained(folder)


def _vocabulary_texts(recipe: Recipe) -> Iterator[str]:
    for exchange in corpus.exchanges(recipe.stages[0].seed, _VOCABULARY_TEXTS):
        yield build_prompt(exchange.question.replace(MASK, ""), exchange.history).replace("\n", "<n>")
        yield exchange.answer
    for text in corpus.texts(recipe.stages[0].seed, _VOCABULARY_TEXTS // 10):
        yield text.replace("\n", "<n>")


def special_ids(tokenizer: ChatGLMTokenizer) -> SpecialIds:
    """Return the ids of the special tokens that the training objective needs."""
    mask, gmask, sop, eop = (tokenizer.sp_tokenizer.token_to_id(t) for t in (MASK, "[gMASK]", "<sop>", "<eop>"))
    return SpecialIds(mask=mask, gmask=gmask, sop=sop, eop=eop, pad=tokenizer.sp_tokenizer.token_to_id("<pad>"))


def prompt_ids(exchange: Exchange, tokenizer: ChatGLMTokenizer) -> list[int]:
    """Return the ids of a prompt without its final [gMASK] and <sop>; in a text with a blank, [MASK] is one token."""
    if exchange.is_blank:
        return list(tokenizer.encode(exchange.question, add_special_tokens=False))
    return tokenizer.encode_text(tokenizer.build_prompt(exchange.question, list(exchange.history)))


def example(exchange: Exchange, tokenizer: ChatGLMTokenizer, special: SpecialIds) -> Example:
    """Return an exchange as a training example."""
    prompt, answer = prompt_ids(exchange, tokenizer), tokenizer.encode_text(exchange.answer)
    if exchange.is_blank:
        return fill_example(prompt, [(prompt.index(special.mask), answer)], special)
    return answer_example(prompt, answer, special)


def examples(stage: Stage, tokenizer: ChatGLMTokenizer, longest: int) -> list[Example]:
    """Return the corpus of a stage as training examples of at most `longest` ids; longer ones are dropped."""
    special = special_ids(tokenizer)
    made: list[Example] = []
    for exchange in tqdm(stage.instructions(), "instructions", stage.exchanges):
        made.append(example(exchange, tokenizer, special))
    for index, text in enumerate(tqdm(corpus.texts(stage.seed, stage.texts), "texts", stage.texts)):
        rng = random.Random(f"blanks/{stage.seed}/{index}")
        made.append(blank_infilling(tokenizer.encode_text(text), rng, special))
    return [sequence for sequence in made if len(sequence) <= longest]


def build_model(recipe: Recipe, tokenizer: ChatGLMTokenizer) -> ChatGLMForCausalLM:
    """Return a float32 model with DeepNorm initialisation by the seed of the first stage."""
    special = special_ids(tokenizer)
    config = ChatGLMConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=recipe.hidden_size,
        num_layers=recipe.num_layers,
        num_attention_heads=recipe.num_attention_heads,
        inner_hidden_size=4 * recipe.hidden_size,
        max_sequence_length=recipe.max_sequence_length,
        deepnorm_alpha=math.sqrt(2 * recipe.num_layers),
        rotary_dtype="float32",
        bos_token_id=special.sop,
        eos_token_id=special.eop,
        mask_token_id=special.mask,
        gmask_token_id=special.gmask,
        pad_token_id=special.pad,
        use_cache=True,
        is_demo=True,
    )
    torch.manual_seed(recipe.stages[0].seed)
    model = ChatGLMForCausalLM(config)
    deepnorm_initialize(model)
    return model


def run(recipe: Recipe, out: Path, run_folder: Path) -> None:
    """Train the demo model and write it to `out`. An interrupted run continues from the checkpoints in `run_folder`."""
    tokenizer = train_vocabulary(recipe, run_folder)
    model = build_model(recipe, tokenizer)
    ends: list[dict[str, Tensor]] = []
    for number, stage in enumerate(recipe.stages, 1):
        if stage.after:
            model.load_state_dict(mean(ends, [(before, 1) for before in stage.after]))
        sequences = examples(stage, tokenizer, recipe.max_sequence_length)
        pretrain(model, sequences, stage.training, run_folder / f"stage_{number}")
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
    model.load_state_dict(mean(ends, recipe.averaged))
    save(model, run_folder, out)


def mean(ends: Sequence[dict[str, Tensor]], parts: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    """Return the weighted mean of each tensor; `parts` has pairs of a stage, counted from 1, and its weight."""
    whole = sum(part for _, part in parts)
    weights = [(ends[stage - 1], part / whole) for stage, part in parts]
    return {name: reduce(add, (end[name] * weight for end, weight in weights)) for name in ends[0]}


def save(model: ChatGLMForCausalLM, run_folder: Path, out: Path) -> None:
    """Write a model in the published layout: float16 weights, float32 LayerNorms, vocabulary, configurations."""
    out.mkdir(parents=True, exist_ok=True)
    model.half()
    for name, module in model.named_modules():
        if name.endswith("norm"):
            module.float()
    model.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)  # the published folders have none
    (out / "model.safetensors").chmod(0o644)
    for name in ("ice_text.model", "tokenizer_config.json"):
        shutil.copyfile(run_folder / name, out / name)
