"""``python -m glm_model.conversion sat``: into a Hugging Face folder, into archives, and round."""

import json
import shutil
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from glm_model import CheckpointError, GLM130BForCausalLM, load
from glm_model.conversion.__main__ import main
from glm_model.conversion.convert import sat_to_huggingface, to_sat
from glm_model.conversion.huggingface_writer import HuggingFaceWriter
from glm_model.conversion.quantize import quantize_checkpoint
from glm_model.conversion.sat import SatArchive
from glm_model.conversion.sources import Packed, Source
from glm_model.kernels.packing import dequantize, quantize
from tests.conversion.archives import (
    DRAWN_TOKENS,
    PACKED,
    SIZES,
    SPECIAL_TOKENS,
    all_ranks,
    change_rank,
    drawn_weights,
    golden_archive,
    rank_file,
    rank_tensors,
    write_archive,
)
from tests.golden.data import CHAT, GLM130B, GOLDEN, assert_close, expected

ROOT = Path(__file__).parent.parent.parent
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config.json with what the golden archives do not tell."""
    sizes = json.loads((GOLDEN / GLM130B / "model_config.json").read_text(encoding="utf-8"))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**sizes, **SPECIAL_TOKENS}), encoding="utf-8")
    return file


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def assert_same(actual: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert actual.keys() == wanted.keys()
    for name, value in actual.items():
        assert value.dtype == wanted[name].dtype, name
        assert torch.equal(value, wanted[name]), name


def without_frequencies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.endswith("inv_freq")}


# ---- into a Hugging Face folder


@pytest.mark.parametrize(
    ("folder", "stem"),
    [
        ("tp1", "expected"),
        ("tp2", "expected"),
        ("tp2_int8", "expected_tp2_int8"),
        ("tp2_int4", "expected_tp2_int4"),
    ],
)
@torch.no_grad()
def test_golden(folder: str, stem: str, config: Path, tmp_path: Path, capsys: Any) -> None:
    """By the command; then the folder loads without a word about where it comes from."""
    target = tmp_path / "made" / "model"
    arguments = ["sat", str(GOLDEN / GLM130B / folder), str(target), "--config", str(config), "--shard-size", "100KB"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert f"{target}: float32, " in shown.out
    assert "100%" in shown.err
    assert not list(tmp_path.glob("made/*.partial"))
    assert len(list(target.glob("model-*.safetensors"))) > 3

    model = GLM130BForCausalLM.from_pretrained(target).eval()
    assert model.dtype == torch.float32
    values = expected(GLM130B, stem)
    for case in ("g", "m", "s"):
        tokens = values[f"{case}.tokens"]
        prompt = tokens[:, tokens[0] >= 0]
        assert_close(model(prompt).logits, values[f"{case}.logits"])
        wanted = values[f"{case}.greedy_tokens"]
        assert torch.equal(model.generate(prompt, max_length=40, do_sample=False), wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_drawn_weights(dtype: torch.dtype, ranks: int, tmp_path: Path) -> None:
    weights = drawn_weights(ranks, dtype)
    source = write_archive(tmp_path / "archive", weights, ranks)
    described = sat_to_huggingface(source, tmp_path / "made")
    assert described == str(dtype).removeprefix("torch.")
    assert_same(stored(tmp_path / "made"), weights)
    model = GLM130BForCausalLM.from_pretrained(tmp_path / "made")
    assert model.dtype == dtype
    for name, value in {**SIZES, **DRAWN_TOKENS}.items():
        assert getattr(model.config, name) == value


def test_shards_are_of_the_size_asked_for(tmp_path: Path) -> None:
    source = write_archive(tmp_path / "archive", drawn_weights(), 2)
    sat_to_huggingface(source, tmp_path / "made", shard_size="3KB")
    files = (tmp_path / "made").glob("*.safetensors")
    sizes = {file.name: sum(tensor.nbytes for tensor in load_file(file).values()) for file in files}
    index = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_text())
    assert len(sizes) > 2
    assert all(size <= 3000 for size in sizes.values())
    assert set(index["weight_map"].values()) == sizes.keys()
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert set(index["weight_map"]) == drawn_weights().keys()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shard_size", ["5GB", "400KB", "1KB"])
def test_packing_on_the_way(bits: int, shard_size: str, tmp_path: Path) -> None:
    """As by the quantize command afterwards, also where a weight and its scales come into different files."""
    source = write_archive(tmp_path / "archive", drawn_weights(), 2)
    sat_to_huggingface(source, tmp_path / "float")
    quantize_checkpoint(tmp_path / "float", tmp_path / "wanted", bits)
    assert sat_to_huggingface(source, tmp_path / "made", bits=bits, shard_size=shard_size) == f"INT{bits}"
    assert_same(stored(tmp_path / "made"), stored(tmp_path / "wanted"))
    assert GLM130BForCausalLM.from_pretrained(tmp_path / "made").config.quantization_bit == bits


class _Watching:
    """A source that sees to it that nobody keeps a tensor when the next one is asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.folder, self.files, self.config, self.headers = source.folder, source.files, source.config, source.headers

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        for name, stored in self._source.read(names):
            tensor = stored.clone()  # what is of one rank, or whole on every rank, its file's mapping keeps
            left = weakref.ref(tensor)
            yield name, tensor
            del tensor, stored
            assert left() is None, name


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_no_tensor_outlives_its_turn(bits: int, tmp_path: Path) -> None:
    source: Source = _Watching(SatArchive(write_archive(tmp_path / "archive", drawn_weights(), 2)))
    made = _Watching(Packed(source, bits)) if bits else source
    (tmp_path / "made").mkdir()
    HuggingFaceWriter(made, "5GB").write(tmp_path / "made", tqdm(disable=True))
    assert stored(tmp_path / "made").keys() == made.headers.keys()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_packed_rank_stays_packed(bits: int, tmp_path: Path) -> None:
    source = write_archive(tmp_path / "archive", drawn_weights(), 1, bits)
    for asked in (0, bits):
        assert sat_to_huggingface(source, tmp_path / f"made{asked}", bits=asked) == f"INT{bits}"
        assert_same(stored(tmp_path / f"made{asked}"), rank_tensors(source))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shard_size", ["5GB", "1KB"])
def test_scales_of_each_rank_become_float32(bits: int, shard_size: str, tmp_path: Path) -> None:
    """Dequantized before joining, exactly; what was never packed keeps its dtype."""
    weights = drawn_weights()
    source = write_archive(tmp_path / "archive", weights, 2, bits)
    assert sat_to_huggingface(source, tmp_path / "made", shard_size=shard_size) == "float32"
    wanted = {}
    for name, weight in weights.items():
        if not name.endswith(PACKED):
            wanted[name] = weight
            continue
        by_columns = name.endswith((".dense.weight", "dense_4h_to_h.weight"))  # rows have the same scale, cut or not
        parts = [quantize(part, bits) for part in (weight.chunk(2, dim=1) if by_columns else [weight])]
        wanted[name] = torch.cat([dequantize(*part, bits, torch.float32) for part in parts], dim=1)
    assert_same(stored(tmp_path / "made"), wanted)


def test_other_files_come_along(tmp_path: Path, config: Path) -> None:
    """With the tokenizer beside `latest` the folder is all that `load` needs, and so is an archive made of it."""
    weights = drawn_weights(vocab_size=3744)
    tokens = {"bos_token_id": 3404, "eos_token_id": 3405, "mask_token_id": 3400, "gmask_token_id": 3401}
    source = write_archive(tmp_path / "archive", weights, 2, vocab_size=3744, **tokens, smask_token_id=None)
    demo = ROOT / "models" / "demo"
    for name in ("ice_text.model", "tokenizer_config.json"):
        shutil.copyfile(demo / name, source / name)
    (source / "README.md").write_text("Licence", encoding="utf-8")
    sat_to_huggingface(source, tmp_path / "made")
    model, tokenizer = load(tmp_path / "made")
    assert model.config.bos_token_id == tokenizer.bos_token_id == 3404
    to_sat(tmp_path / "made", tmp_path / "back", 4)
    for folder in ("made", "back"):
        assert (tmp_path / folder / "README.md").read_text() == "Licence"
        assert (tmp_path / folder / "ice_text.model").is_file()
    assert not (tmp_path / "made" / "latest").exists()
    assert not (tmp_path / "back" / "config.json").exists()


# ---- into archives


def test_golden_shards(tmp_path: Path, config: Path) -> None:
    """Just what GLM-130B's own tool has made, and the file's description of it byte for byte what torch writes."""
    to_sat(GOLDEN / GLM130B / "tp1", tmp_path / "made", 2, config=config)
    for rank in (0, 1):
        wanted = rank_file(GOLDEN / GLM130B / "tp2", rank)
        made = rank_file(tmp_path / "made", rank)
        assert_same(rank_tensors(tmp_path / "made", rank), rank_tensors(GOLDEN / GLM130B / "tp2", rank))
        assert list(rank_tensors(tmp_path / "made", rank)) == list(rank_tensors(GOLDEN / GLM130B / "tp2", rank))
        pickles = [zipfile.ZipFile(file).read(f"mp_rank_0{rank}_model_states/data.pkl") for file in (made, wanted)]
        assert pickles[0] == pickles[1]
        assert zipfile.ZipFile(made).testzip() is None


@pytest.mark.parametrize("bits", [8, 4])
def test_golden_packed_shards(bits: int, tmp_path: Path, config: Path) -> None:
    """They were made of tp1 in float16."""
    source = golden_archive(tmp_path / "half")
    change_rank(source, **{name: tensor.half() for name, tensor in rank_tensors(source).items()})
    assert to_sat(source, tmp_path / "made", 2, bits=bits, config=config) == f"2 ranks, INT{bits}"
    for rank in (0, 1):
        wanted = rank_tensors(GOLDEN / GLM130B / f"tp2_int{bits}", rank)
        assert_same(rank_tensors(tmp_path / "made", rank), wanted)


@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("through", ["archives", "folders"])
def test_round_trip(bits: int, dtype: torch.dtype, through: str, tmp_path: Path) -> None:
    """1 -> 2 -> 4 -> 1, from archive to archive or by a Hugging Face folder in between: every bit as it was."""
    weights = drawn_weights(0, dtype, inner_hidden_size=32)
    start = write_archive(tmp_path / "start", weights, 1, bits, inner_hidden_size=32)
    source = start
    for ranks in (2, 4, 1):
        if through == "folders":
            sat_to_huggingface(source, tmp_path / f"folder{ranks}", shard_size="2KB")
            source = tmp_path / f"folder{ranks}"
        to_sat(source, tmp_path / f"archive{ranks}", ranks)
        source = tmp_path / f"archive{ranks}"
        assert len(all_ranks(source)) == ranks
        assert json.loads((source / "model_config.json").read_text())["model_parallel_size"] == ranks
    assert_same(without_frequencies(rank_tensors(source)), rank_tensors(start))
    assert (source / "latest").read_text() == ("300" if through == "archives" else "release")
    descriptions = [json.loads((folder / "model_config.json").read_text()) for folder in (start, source)]
    assert descriptions[0].items() <= descriptions[1].items()


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_of_each_rank_are_cut_and_joined_again(bits: int, tmp_path: Path) -> None:
    """2 -> 4 -> 2: each half of a rank's columns keeps the rank's scales, so that they can be one again."""
    start = write_archive(tmp_path / "start", drawn_weights(inner_hidden_size=32), 2, bits, inner_hidden_size=32)
    to_sat(start, tmp_path / "four", 4)
    to_sat(tmp_path / "four", tmp_path / "two", 2)
    for rank in (0, 1):
        assert_same(without_frequencies(rank_tensors(tmp_path / "two", rank)), rank_tensors(start, rank))
    sat_to_huggingface(start, tmp_path / "folder_of_two")
    sat_to_huggingface(tmp_path / "four", tmp_path / "folder_of_four")
    assert_same(stored(tmp_path / "folder_of_four"), stored(tmp_path / "folder_of_two"))
    with pytest.raises(CheckpointError, match=r"attention\.dense\.weight_scale: 2 ranks have quantized it with scales"):
        to_sat(start, tmp_path / "one", 1)


# ---- what is refused


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", drawn_weights(), 2)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """What the command says and nothing else; it leaves no folder that could be taken for a model."""
    assert main(["sat", *map(str, arguments)]) == 1
    shown = capsys.readouterr()
    assert not shown.out
    assert not Path(arguments[1]).exists() or any(Path(arguments[1]).iterdir())
    return shown.err.splitlines()[-1]


def wrong_line(capsys: pytest.CaptureFixture[str], *arguments: Any, told: str) -> None:
    """The command line is refused in a line."""
    with pytest.raises(SystemExit) as left:
        main(["sat", *map(str, arguments)])
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert told in shown


def test_a_target_that_is_there(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    (target / "precious").write_text("kept")
    assert f"{target} is there already" in error_of(capsys, archive, target)
    assert (target / "precious").read_text() == "kept"


def test_an_empty_target(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    sat_to_huggingface(archive, tmp_path / "made")
    assert (tmp_path / "made" / "config.json").is_file()


@pytest.mark.parametrize("ranks", [3, 8])
def test_heads_that_do_not_divide(ranks: int, archive: Path, tmp_path: Path, capsys: Any) -> None:
    shown = error_of(capsys, archive, tmp_path / "made", "--tensor-parallel", ranks)
    assert f"{archive}: 4 attention heads do not divide by {ranks} ranks" in shown


def test_a_vocabulary_that_does_not_divide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_archive(tmp_path / "archive", drawn_weights(vocab_size=46), 2, vocab_size=46)
    shown = error_of(capsys, archive, tmp_path / "made", "--tensor-parallel", 4)
    assert "transformer.word_embeddings.weight: 46 rows do not divide by 4 ranks" in shown


def test_packed_columns_that_do_not_divide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two columns share a byte: three columns a rank cannot be."""
    sizes = {"inner_hidden_size": 12}
    archive = write_archive(tmp_path / "archive", drawn_weights(**sizes), 1, 4, **sizes)
    shown = error_of(capsys, archive, tmp_path / "made", "--tensor-parallel", 4)
    assert "dense_4h_to_h.weight: 6 bytes of packed columns do not divide by 4 ranks" in shown
    archive = write_archive(tmp_path / "float", drawn_weights(**sizes), 1, **sizes)
    shown = error_of(capsys, archive, tmp_path / "made", "--tensor-parallel", 4, "--quantize", "int4")
    assert "dense_4h_to_h.weight: 3 columns are odd" in shown


@pytest.mark.parametrize("ranks", [0, -2])
def test_ranks_that_cannot_be(ranks: int, archive: Path, tmp_path: Path, capsys: Any) -> None:
    wrong_line(
        capsys,
        archive,
        tmp_path / "made",
        "--tensor-parallel",
        ranks,
        told=f"'{ranks}' is not a whole number of at least 1",
    )
    with pytest.raises(ValueError, match=f"tensor-parallel must be 1 or more, not {ranks}"):
        to_sat(archive, tmp_path / "made", ranks)


def test_scales_that_cannot_be_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_archive(tmp_path / "archive", drawn_weights(), 2, 4)
    shown = error_of(capsys, archive, tmp_path / "made", "--quantize", "int4")
    assert f"{archive} cannot stay INT4 in one piece: its 2 ranks have each made scales of their own" in shown


@pytest.mark.parametrize("extra", [[], ["--tensor-parallel", "2"]])
def test_packed_with_other_bits(extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_archive(tmp_path / "archive", drawn_weights(), 2, 8)
    assert "is INT8 already and cannot become INT4" in error_of(
        capsys, archive, tmp_path / "made", "--quantize", "int4", *extra
    )


@pytest.mark.parametrize("ranks", [None, 2])
def test_values_without_a_scale(ranks: int | None, archive: Path, tmp_path: Path, capsys: Any) -> None:
    name = "transformer.layers.1.mlp.dense_h_to_4h.weight"
    change_rank(archive, 1, **{name: torch.full((24, 16), torch.nan).half()})
    extra = [] if ranks is None else ["--tensor-parallel", ranks]
    command = [archive, tmp_path / "made", "--quantize", "int4", *extra]
    shown = error_of(capsys, *command)
    assert f"{rank_file(archive, 1)}: {name} holds values that are NaN" in shown
    shown = error_of(capsys, *command, "--allow-non-finite")
    assert f"{archive}: {name} holds values that are NaN" in shown


@pytest.mark.parametrize("size", ["five", "5", "5GiB", "-"])
def test_shard_sizes_that_are_none(size: str, archive: Path, tmp_path: Path, capsys: Any) -> None:
    wrong_line(capsys, archive, tmp_path / "made", f"--shard-size={size}", told=f"such as 5GB, not '{size}'")


def test_a_folder_in_the_hugging_face_layout(archive: Path, tmp_path: Path, capsys: Any, config: Path) -> None:
    folder = tmp_path / "folder"
    sat_to_huggingface(archive, folder)
    assert "--tensor-parallel N makes an archive of it" in error_of(capsys, folder, tmp_path / "made")
    shown = error_of(capsys, folder, tmp_path / "made", "--tensor-parallel", 2, "--config", config)
    assert "leave out --config" in shown


def test_a_folder_of_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = error_of(capsys, GOLDEN / CHAT, tmp_path / "made", "--tensor-parallel", 2)
    assert "model_type 'chatglm'; this needs 'glm130b'" in shown


def test_a_model_with_a_head_of_its_own(archive: Path, tmp_path: Path, capsys: Any) -> None:
    sat_to_huggingface(archive, tmp_path / "folder")
    file = tmp_path / "folder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tie_word_embeddings": False}))
    shown = error_of(capsys, tmp_path / "folder", tmp_path / "made", "--tensor-parallel", 2)
    assert f"{tmp_path / 'folder'} has a head of its own" in shown


def test_too_little_disk(archive: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    assert "B more, but its disk has 0.00B free" in error_of(capsys, archive, tmp_path / "made")


def test_as_a_command(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "glm_model.conversion", "sat", str(archive), str(tmp_path / "made")]
    done = subprocess.run([*command, "--quantize", "int4"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "INT4" in done.stdout
    assert sum(file.suffix == ".safetensors" for file in (tmp_path / "made").iterdir()) == 1
