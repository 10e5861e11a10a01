"""`generate` against the original: greedy, beams, penalties, padded batches, streams, sampling, caches."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model.generation.sampling import InvalidScoreLogitsProcessor
from tests.golden.data import FP32, GOLDEN, assert_close
from tests.golden.models import ALL_SETS, PLAIN_SETS, TUNED_SETS, DataSet, answering, load

FLOAT_SETS = [*PLAIN_SETS, *TUNED_SETS]
AS_IS = DataSet(FP32, "expected")
NEW_TOKENS = {"a": 24, "b": 24, "ab": 24, "c": 12, "e": 16, "ea": 16}
BEAM_TOKENS = 12
# What one prompt brings with it when it is not left to the model.
GIVEN = ("attention_mask", "position_ids")

SAMPLING = {
    "chat_default_t0.95_k50_p0.7": (0.95, 50, 0.7),
    "t0.5_k50_p0.2": (0.5, 50, 0.2),
    "t0.95_k0_p0.7": (0.95, 0, 0.7),
    "t1.0_k5_p1.0": (1.0, 5, 1.0),
    "t2.0_k50_p0.95": (2.0, 50, 0.95),
}


def greedy(data: DataSet, case: str, *given: str, model: Any = None, **options: Any) -> Any:
    """Greedy continuation of a case, with its masks and positions where `given` names them."""
    ids = data.values[f"{case}.input_ids"]
    options = {"max_length": ids.shape[1] + NEW_TOKENS[case], "do_sample": False, **options}
    options |= {name: data.values[f"{case}.{name}"] for name in given}
    return (model or data.model()).generate(ids, output_logits=True, return_dict_in_generate=True, **options)


def assert_greedy(data: DataSet, case: str, output: Any) -> None:
    assert torch.equal(output.sequences, data.values[f"{case}.greedy_sequences"])
    scores = data.values.get(f"{case}.greedy_scores")
    if scores is not None:
        assert_close(torch.stack(output.logits, dim=1), scores, data.bound)


def having(name: str) -> Any:
    """Runs a test with every set that has the value."""
    return pytest.mark.parametrize("data", [data for data in ALL_SETS if name in data.values], ids=str)


def cases(sets: list[DataSet], names: list[str]) -> list[Any]:
    """The (set, case) pairs that the data has."""
    pairs = [(data, name) for data in sets for name in names if f"{name}.greedy_sequences" in data.values]
    return [pytest.param(data, name, id=f"{data}-{name}") for data, name in pairs]


@pytest.mark.parametrize(("data", "case"), cases(ALL_SETS, ["a", "b", "ab", "e"]))
def test_greedy_from_ids_alone(data: DataSet, case: str) -> None:
    assert_greedy(data, case, greedy(data, case))


@pytest.mark.parametrize(("data", "case"), cases(ALL_SETS, ["a", "b", "c", "ea"]))
def test_greedy_from_given_masks_and_positions(data: DataSet, case: str) -> None:
    """`c` and `ea` are left padded; a row that has ended is filled with the padding id."""
    assert_greedy(data, case, greedy(data, case, *GIVEN))


@pytest.mark.parametrize(("data", "case"), cases(FLOAT_SETS, ["c", "ea"]))
def test_left_padded_batches_from_ids_alone(data: DataSet, case: str) -> None:
    """The model finds the padding itself, by its id or by a 0/1 mask."""
    assert_greedy(data, case, greedy(data, case))
    visible = (data.values[f"{case}.input_ids"] != data.model().config.pad_token_id).long()
    assert_greedy(data, case, greedy(data, case, attention_mask=visible))


@pytest.mark.parametrize(("data", "case"), cases([AS_IS, TUNED_SETS[0]], ["a", "b", "c", "ea"]))
@pytest.mark.parametrize("given", [(), GIVEN], ids=["derived", "given"])
@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_every_cache_gives_the_same(data: DataSet, case: str, given: tuple[str, ...], options: dict[str, Any]) -> None:
    assert_greedy(data, case, greedy(data, case, *given, **options))


@pytest.mark.parametrize("case", ["a", "b", "c", "ea"])
def test_eager_attention_generates_the_same(case: str) -> None:
    assert_greedy(AS_IS, case, greedy(AS_IS, case, model=AS_IS.model(attn_implementation="eager")))


@pytest.mark.parametrize("data", ALL_SETS, ids=str)
@pytest.mark.parametrize("case", ["a", "b"])
def test_beam_search(data: DataSet, case: str) -> None:
    assert_beams(data, f"{case}.beam3", beams(data, case, num_return_sequences=3))


@having("a.beam3_lp0.5_early_sequences")
def test_beam_search_stopping_early(data: DataSet) -> None:
    output = beams(data, "a", length_penalty=0.5, early_stopping=True)
    assert_beams(data, "a.beam3_lp0.5_early", output)


def beams(data: DataSet, case: str, **options: Any) -> Any:
    ids = data.values[f"{case}.input_ids"]
    return data.model().generate(
        ids,
        num_beams=3,
        max_length=ids.shape[1] + BEAM_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )


def assert_beams(data: DataSet, name: str, output: Any) -> None:
    """The same hypotheses, and the scores of transformers 4.27, which counted the prompt into the length."""
    assert torch.equal(output.sequences, data.values[f"{name}_sequences"])
    assert_close(output.sequences_scores, data.values[f"{name}_sequences_scores"], data.score_bound)


@having("a.greedy_rep1.2_sequences")
def test_repetition_penalty(data: DataSet) -> None:
    output = greedy(data, "a", repetition_penalty=1.2, max_length=29, output_scores=True)
    assert torch.equal(output.sequences, data.values["a.greedy_rep1.2_sequences"])
    if "a.greedy_rep1.2_scores" in data.values:
        assert_close(torch.stack(output.scores, dim=1), data.values["a.greedy_rep1.2_scores"], data.score_bound)


@having("a.greedy_ngram2_sequences")
def test_no_repeated_ngrams(data: DataSet) -> None:
    output = greedy(data, "a", no_repeat_ngram_size=2, max_length=29)
    assert torch.equal(output.sequences, data.values["a.greedy_ngram2_sequences"])


@having("a.stream_last")
def test_streaming_drops_the_last_token_as_published(data: DataSet) -> None:
    index = json.loads((GOLDEN / data.folder / "expected_index.json").read_text())
    for case in ("a", "e"):
        ids, wanted = data.values[f"{case}.input_ids"], data.values[f"{case}.stream_last"]
        yields = list(data.model().stream_generate(ids, max_length=ids.shape[1] + NEW_TOKENS[case], do_sample=False))
        assert torch.equal(yields[-1], wanted)
        assert [len(ids[0]) for ids in yields] == list(range(ids.shape[1] + 1, wanted.shape[1] + 1))
        assert len(yields) == index["notes"][data.stem].get(f"{case}.stream_yields", len(yields))


@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temperature, then top-k, then top-p."""
    values = AS_IS.values
    temperature, top_k, top_p = SAMPLING[name]
    logits = values["sampling.logits"]
    output = answering(AS_IS.model(), logits, monkeypatch).generate(
        values["a.input_ids"].expand(len(logits), -1),
        max_new_tokens=1,
        do_sample=True,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert_probabilities(output.scores[0], values[f"sampling.{name}.scores"])
    assert_close(output.scores[0].softmax(-1), values[f"sampling.{name}.probs"])


def assert_probabilities(scores: Tensor, wanted: Tensor) -> None:
    assert torch.equal(scores.isinf(), wanted.isinf())
    assert_close(scores[scores.isfinite()], wanted[wanted.isfinite()])


def test_invalid_scores_choose_one_token() -> None:
    values = AS_IS.values
    scores, ids = values["invalid_score.in_has_nan_rows0_1"], torch.empty(0, dtype=torch.long)
    assert torch.equal(InvalidScoreLogitsProcessor()(ids, scores.clone()), values["invalid_score.out"])
    fine = scores[2:]
    assert torch.equal(InvalidScoreLogitsProcessor()(ids, fine.clone()), fine)
    infinite = torch.where(fine == fine.max(), float("inf"), fine)
    assert torch.equal(InvalidScoreLogitsProcessor()(ids, infinite), values["invalid_score.out"][2:])


@pytest.mark.parametrize("case", ["a", "b"])
@torch.no_grad()
def test_a_cached_step_equals_the_whole_pass(case: str) -> None:
    model, ids = AS_IS.model(), AS_IS.values[f"{case}.greedy_sequences"]
    prompt = AS_IS.values[f"{case}.input_ids"].shape[1]
    whole = model(ids).logits[:, prompt - 1 : -1]
    assert_close(whole, AS_IS.values[f"{case}.greedy_scores"])


@torch.no_grad()
def test_logits_to_keep() -> None:
    model, ids = AS_IS.model(), AS_IS.values["a.input_ids"]
    assert_close(model(ids, logits_to_keep=2).logits, AS_IS.values["a.logits"][:, -2:])
    assert_close(model(ids, logits_to_keep=torch.tensor([0, 5])).logits, AS_IS.values["a.logits"][:, [0, 5]])


def test_sampled_rows_of_one_prompt() -> None:
    """num_return_sequences draws what a batch of the same prompt draws, and the seed decides all of it."""
    model, ids = AS_IS.model(), AS_IS.values["a.input_ids"]
    options = {"max_new_tokens": 6, "do_sample": True, "temperature": 5.0}
    draws = []
    for prompt, rows in ((ids, 3), (ids.repeat(3, 1), 1), (ids, 3)):
        torch.manual_seed(0)
        draws.append(model.generate(prompt, num_return_sequences=rows, **options))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])
    assert len({tuple(row.tolist()) for row in draws[0]}) == 3


@torch.no_grad()
def test_bfloat16_stays_near() -> None:
    """No golden values exist for it. Three digits of precision, through three layers."""
    model, values = load(FP32, torch.bfloat16), AS_IS.values
    logits = model(values["a.input_ids"]).logits
    assert logits.dtype == torch.bfloat16
    assert_close(logits.float(), values["a.logits"], 0.15)
    assert torch.equal(logits[0, -1].argmax(), values["a.logits"][0, -1].argmax())
    assert len(greedy(AS_IS, "a", model=model).sequences[0]) > len(values["a.input_ids"][0])
