"""Reading GLM-130B's own archives: the golden ones, which SwissArmyTransformer itself has run, and damaged ones."""

import pickle
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from glm_model import CheckpointError, GLM130BConfig, GLM130BForCausalLM, load
from glm_model.conversion.sat import MODEL_CONFIG, read_sat_checkpoint
from tests.conversion.archives import (
    DESCRIPTION,
    EMBEDDING,
    SPECIAL_TOKENS,
    change_rank,
    drawn_weights,
    golden_archive,
    rank_file,
    rank_tensors,
    write_archive,
    write_description,
)
from tests.golden.data import GLM130B, GOLDEN, assert_close, expected

# Each archive, and what the original computed with it.
GOLDEN_RUNS = {
    "tp1": "expected",
    "tp2": "expected",
    "tp2_int8": "expected_tp2_int8",
    "tp2_int4": "expected_tp2_int4",
}
DENSE = "transformer.layers.0.attention.dense"
NORM = "transformer.layers.1.input_layernorm.weight"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return golden_archive(tmp_path / "archive")


@pytest.fixture
def cut_archive(tmp_path: Path) -> Path:
    """The same, of two ranks."""
    return golden_archive(tmp_path / "archive", "tp2")


def read(folder: Path) -> tuple[GLM130BConfig, dict[str, Tensor]]:
    return read_sat_checkpoint(folder, DESCRIPTION, **SPECIAL_TOKENS)


@cache
def build(folder: Path) -> GLM130BForCausalLM:
    config, tensors = read(folder)
    model: GLM130BForCausalLM = GLM130BForCausalLM.from_pretrained(None, config=config, state_dict=tensors)
    return model.float().eval()


@pytest.mark.parametrize("folder", GOLDEN_RUNS)
@pytest.mark.parametrize("case", ["g", "m", "s"])
@torch.no_grad()
def test_golden_logits_and_tokens(folder: str, case: str) -> None:
    model, values = build(GOLDEN / GLM130B / folder), expected(GLM130B, GOLDEN_RUNS[folder])
    tokens = values[f"{case}.tokens"]
    prompt = tokens[:, tokens[0] >= 0]
    assert_close(model(prompt).logits, values[f"{case}.logits"])
    generated = model.generate(prompt, max_length=40, do_sample=False)
    assert torch.equal(generated, values[f"{case}.greedy_tokens"])


def test_two_ranks_are_one() -> None:
    """Bit for bit, so whatever was computed with the one holds for the other: beams, scores, filled blanks."""
    (one, whole), (two, joined) = (read(GOLDEN / GLM130B / folder) for folder in ("tp1", "tp2"))
    assert one.to_dict() == two.to_dict()
    assert whole.keys() == joined.keys()
    assert all(torch.equal(value, joined[name]) for name, value in whole.items())


def test_every_value(tmp_path: Path) -> None:
    """As in the archive, and again after a round trip through a Hugging Face folder, whose names are the same."""
    model = build(GOLDEN / GLM130B / "tp1")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    stored = rank_tensors(GOLDEN / GLM130B / "tp1")
    weights = {name: value for name, value in stored.items() if not name.endswith("inv_freq")}
    for loaded in (model, again):
        assert torch.equal(loaded.model.embed_tokens.weight, stored[EMBEDDING])
        assert sum(parameter.numel() for parameter in loaded.parameters()) == sum(w.numel() for w in weights.values())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_configuration(archive: Path) -> None:
    """Sizes from the tensors, the rest from the description beside `latest`."""
    config, tensors = read_sat_checkpoint(archive)
    sizes = {"num_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "inner_hidden_size": 128, "vocab_size": 512}
    for name, value in {**sizes, "max_sequence_length": 128, **SPECIAL_TOKENS}.items():
        assert getattr(config, name) == value
    assert config.dtype == torch.float32
    assert not any("inv_freq" in name for name in tensors)
    assert read_sat_checkpoint(archive, smask_token_id=None)[0].smask_token_id is None


def test_a_given_configuration_has_the_last_word(archive: Path, tmp_path: Path) -> None:
    given = tmp_path / "config.json"
    given.write_text('{"model_type": "glm130b", "pad_token_id": 7, "max_position_embeddings": 99}')
    config, _ = read_sat_checkpoint(archive, given)
    assert (config.pad_token_id, config.max_sequence_length, config.mask_token_id) == (7, 99, 500)


def test_padding_and_sentence_blanks_need_not_be_told(archive: Path) -> None:
    write_description(archive, pad_token_id=None, smask_token_id=None)
    config, _ = read_sat_checkpoint(archive)
    assert (config.pad_token_id, config.smask_token_id) == (0, None)


def test_frequencies_under_sats_own_name(archive: Path) -> None:
    frequencies = {name: None for name in rank_tensors(archive) if "inv_freq" in name}
    change_rank(archive, **frequencies, **{"mixins.rotary-embedding.rotary_emb.inv_freq": torch.ones(8)})
    _, tensors = read_sat_checkpoint(archive)
    assert tensors.keys() == read(GOLDEN / GLM130B / "tp1")[1].keys()


def test_unknown_tensors_are_ignored(cut_archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As SwissArmyTransformer does, which says so, too: its own position embeddings, which GLM-130B does not use."""
    positions, other = "transformer.position_embeddings.weight", "mixins.other.weight"
    change_rank(cut_archive, 0, **{positions: torch.zeros(128, 64)})
    change_rank(cut_archive, 1, **{positions: torch.zeros(128, 64), other: torch.zeros(3)})
    _, tensors = read_sat_checkpoint(cut_archive)
    assert tensors.keys() == read(GOLDEN / GLM130B / "tp1")[1].keys()
    words = "ignored, as GLM-130B does not have it"
    assert caplog.messages == [
        f"{rank_file(cut_archive, 0)}: {words}: {positions}",
        f"{rank_file(cut_archive, 1)}: {words}: {other} and 1 more",
    ]


def test_archives_without_frequencies(cut_archive: Path) -> None:
    for rank in (0, 1):
        frequencies = {name: None for name in rank_tensors(cut_archive, rank) if "inv_freq" in name}
        assert frequencies
        change_rank(cut_archive, rank, **frequencies)
    _, tensors = read_sat_checkpoint(cut_archive)
    assert tensors.keys() == read(GOLDEN / GLM130B / "tp1")[1].keys()


def test_a_step_as_the_original_reads_it(archive: Path) -> None:
    (archive / "latest").write_text("049300\n")
    assert read_sat_checkpoint(archive)[0].num_layers == 3


def test_a_release(archive: Path) -> None:
    (archive / "latest").write_text("release\n")
    (archive / "49300").rename(archive / "release")
    assert read_sat_checkpoint(archive)[0].num_layers == 3


def test_glm130b_is_known_by_its_sizes(monkeypatch: pytest.MonkeyPatch, archive: Path) -> None:
    """Without a description; a smaller model stands in for the released one."""
    (archive / MODEL_CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"no model_config\.json and does not say num_attention_heads"):
        read_sat_checkpoint(archive)
    sizes = {"num_layers": 3, "hidden_size": 64, "inner_hidden_size": 128, "vocab_size": 512}
    monkeypatch.setitem(GLM130BConfig.presets, "glm-130b", sizes)
    config, _ = read_sat_checkpoint(archive, hidden_size=64, **SPECIAL_TOKENS, num_attention_heads=4)
    assert config.num_attention_heads == 4


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_drawn_archives(seed: int, ranks: int, tmp_path: Path) -> None:
    """Any sizes that divide by the ranks."""
    sizes = {"hidden_size": 8 * (seed + 2), "inner_hidden_size": 4 * (2 * seed + 1), "vocab_size": 44 + 4 * seed}
    weights = drawn_weights(seed, torch.bfloat16 if seed % 2 else torch.float32, **sizes, num_layers=1 + seed % 3)
    ids: dict[str, Any] = dict.fromkeys(["bos_token_id", "mask_token_id", "gmask_token_id", "smask_token_id"], 1)
    config, joined = read_sat_checkpoint(
        write_archive(tmp_path / "archive", weights, ranks, **sizes, num_layers=1 + seed % 3, eos_token_id=2),
        **ids,
    )
    assert config.inner_hidden_size == sizes["inner_hidden_size"]
    assert joined.keys() == weights.keys()
    assert all(torch.equal(joined[name], value) for name, value in weights.items())


# ---- what is refused


def test_loading_says_how_to_convert() -> None:
    for read_folder in (load, GLM130BForCausalLM.from_pretrained):
        with pytest.raises(CheckpointError, match=r"archive of SwissArmy.*glm_model\.conversion sat .*tp2 DST'"):
            read_folder(GOLDEN / GLM130B / "tp2")


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "is empty"), ("newest", "'newest'"), ("../49300", "step number"), ("7", "no folder"), ("-1", "step number")],
)
def test_latest(archive: Path, content: str, words: str) -> None:
    (archive / "latest").write_text(content)
    with pytest.raises(CheckpointError, match=words):
        read_sat_checkpoint(archive)


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="latest does not exist"):
        read_sat_checkpoint(tmp_path)


def test_no_rank(archive: Path) -> None:
    rank_file(archive).unlink()
    with pytest.raises(CheckpointError, match=r"holds no mp_rank_00_model_states\.pt\. The download"):
        read_sat_checkpoint(archive)


def test_a_gap_in_the_ranks(cut_archive: Path) -> None:
    rank_file(cut_archive, 0).unlink()
    with pytest.raises(CheckpointError, match=r"no mp_rank_00_model_states\.pt, but mp_rank_01_model_states\.pt"):
        read_sat_checkpoint(cut_archive)


def test_the_last_rank_is_missing(cut_archive: Path) -> None:
    rank_file(cut_archive, 1).unlink()
    with pytest.raises(CheckpointError, match=r"query_key_value\.weight has 96 of 192 rows.* 2 ranks.* are 1 files"):
        read_sat_checkpoint(cut_archive)


def test_ranks_of_another_number(cut_archive: Path) -> None:
    shutil.copyfile(rank_file(cut_archive, 1), rank_file(cut_archive, 2))
    with pytest.raises(CheckpointError, match=r"makes 2 ranks, but there are 3 files"):
        read_sat_checkpoint(cut_archive)


def test_a_rank_of_another_checkpoint(cut_archive: Path) -> None:
    change_rank(cut_archive, 1, **{NORM: rank_tensors(cut_archive, 1)[NORM] * 1.1})
    with pytest.raises(CheckpointError, match=f"{rank_file(cut_archive, 1)}: {NORM} should be the same on all ranks"):
        read_sat_checkpoint(cut_archive)


def test_copies_may_differ_by_rounding(cut_archive: Path) -> None:
    """As the original the first rank's are taken."""
    change_rank(cut_archive, 1, **{NORM: rank_tensors(cut_archive, 1)[NORM] * 1.0001})
    _, tensors = read_sat_checkpoint(cut_archive)
    assert torch.equal(tensors[NORM], rank_tensors(cut_archive, 0)[NORM])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{DENSE}.weight": None}, f"lacks {DENSE}.weight"),
        ({f"{DENSE}.weight_scale": torch.ones(64)}, f"holds {DENSE}.weight_scale, but not all .* packed"),
        ({f"{DENSE}.weight": torch.zeros(64, 33)}, rf"{DENSE}.weight has shape \[64, 33\], but .* \[64, 32\]"),
        ({f"{DENSE}.bias": torch.zeros(32)}, rf"{DENSE}.bias has shape \[32\], but .* \[64\]"),
        (
            {"transformer.layers.0.mlp.dense_h_to_4h.weight": torch.zeros(64, 64)},
            r"dense_h_to_4h.weight has shape \[64, 64\], but .* \[128, 64\]",
        ),
    ],
)
def test_wrong_tensors(cut_archive: Path, rank: int, change: dict[str, Any], words: str) -> None:
    change_rank(cut_archive, rank, **change)
    with pytest.raises(CheckpointError, match=f"{rank_file(cut_archive, rank)}.*{words}"):
        read_sat_checkpoint(cut_archive)


def test_ranks_of_different_dtypes(cut_archive: Path) -> None:
    change_rank(cut_archive, 1, **{f"{DENSE}.bias": torch.zeros(64).half()})
    with pytest.raises(CheckpointError, match=f"{rank_file(cut_archive, 1)}: {DENSE}.bias is torch.float16"):
        read_sat_checkpoint(cut_archive)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
def test_dtypes_that_no_layer_has(dtype: torch.dtype, archive: Path) -> None:
    change_rank(archive, **{f"{DENSE}.weight": rank_tensors(archive)[f"{DENSE}.weight"].to(dtype)})
    with pytest.raises(CheckpointError, match=f"{rank_file(archive)}: {DENSE}.weight is {dtype}, but .*float16 or"):
        read_sat_checkpoint(archive)


def test_a_layer_that_is_not_packed(archive: Path) -> None:
    packed = write_archive(archive.with_name("packed"), drawn_weights(), 1, 8)
    change_rank(packed, **{f"{DENSE}.weight": rank_tensors(packed)[f"{DENSE}.weight"].half()})
    with pytest.raises(CheckpointError, match=f"{DENSE}.weight is torch.float16, but .*must be torch.int8"):
        read_sat_checkpoint(packed)


def test_packed_and_float_ranks(cut_archive: Path) -> None:
    shutil.copyfile(rank_file(GOLDEN / GLM130B / "tp2_int8", 1), rank_file(cut_archive, 1))
    with pytest.raises(CheckpointError, match=f"{rank_file(cut_archive, 1)} holds .*weight_scale"):
        read_sat_checkpoint(cut_archive)


def test_integers_that_are_no_quantization(archive: Path) -> None:
    name = "transformer.layers.0.attention.query_key_value.weight"
    change_rank(archive, **{name: torch.zeros(192, 16, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match=f"{rank_file(archive)}: {name} .* neither INT8 nor INT4"):
        read_sat_checkpoint(archive)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no 'module'"),
        ({"module": 3}, "no 'module'"),
        ({"module": {"a": "b"}}, "no 'module'"),
        ([], "no 'module'"),
        ({"module": {}}, "no matrix transformer.word_embeddings.weight"),
        ({"module": {EMBEDDING: torch.zeros(4)}}, "no matrix transformer.word_embeddings.weight"),
        ({"module": {EMBEDDING: torch.zeros(4, 4)}}, "no matrix .*dense_4h_to_h"),
    ],
)
def test_shards_of_something_else(archive: Path, content: Any, words: str) -> None:
    torch.save(content, rank_file(archive))
    with pytest.raises(CheckpointError, match=f"{rank_file(archive)}.*{words}"):
        read_sat_checkpoint(archive)


class Harmful:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code of a checkpoint was run')",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git-LFS pointer"),
        (b"garbage" * 99, "is truncated, damaged or no PyTorch file"),
        (pickle.dumps({"module": Harmful()}, protocol=2), "damaged or no PyTorch file|holds Python objects"),
    ],
    ids=["empty", "pointer", "garbage", "pickle"],
)
def test_files_of_something_else(cut_archive: Path, content: bytes, words: str) -> None:
    rank_file(cut_archive, 1).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{rank_file(cut_archive, 1)} .*{words}"):
        read_sat_checkpoint(cut_archive)


def test_code_in_an_archive_is_never_run(archive: Path) -> None:
    torch.save({"module": Harmful()}, rank_file(archive))
    with pytest.raises(CheckpointError, match=f"{rank_file(archive)} holds Python objects"):
        read_sat_checkpoint(archive)


def test_truncated_shard(archive: Path) -> None:
    content = rank_file(archive).read_bytes()
    rank_file(archive).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{rank_file(archive)} is truncated"):
        read_sat_checkpoint(archive)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 128}, "says hidden_size 128, but the tensors .* have 64"),
        ({"num_layers": 70}, "says num_layers 70"),
        ({"num_hidden_layers": 70, "num_layers": None}, "says num_layers 70"),
        ({"num_attention_heads": None}, "does not say num_attention_heads"),
        ({"num_attention_heads": 3}, "does not divide by num_attention_heads 3"),
        ({"num_attention_heads": "four"}, "num_attention_heads"),
        ({"mask_token_id": None}, "mask_token_id is 150000, outside the vocabulary of 512"),
        ({"eos_token_id": [505, 20002]}, "eos_token_id is .*outside the vocabulary"),
        ({"model_type": "chatglm"}, "says model_type 'chatglm'"),
    ],
)
def test_description(archive: Path, change: dict[str, Any], words: str) -> None:
    write_description(archive, **change)
    with pytest.raises(CheckpointError, match=words):
        read_sat_checkpoint(archive)
