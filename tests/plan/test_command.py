"""The command line: verdicts, exit status, JSON, and clear words for a wrong question."""

import json
from pathlib import Path
from typing import Any

import pytest

from glm_model.plan.__main__ import main
from glm_model.plan.gpus import GIB
from tests.checkpoints import write_json
from tests.plan.shapes import small

GLM_130B = ["--model", "glm-130b", "--quantize", "int4", "--gpus", "4x24GB", "--context", "2048", "--batch", "1"]


def answer(capsys: Any, *arguments: str) -> dict[str, Any]:
    main([*arguments, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_it_fits(capsys: Any) -> None:
    assert main(GLM_130B) == 0
    text = capsys.readouterr().out
    assert text.startswith("glm-130b, INT4 weights, float16, context 2048, batch 1\n4x24GB, tensor parallel 4")
    assert "GPU 0-3" in text
    assert "\nIt fits.\n" in text
    assert "Assumed: 512 MiB for CUDA's context" in text


def test_it_does_not_fit(capsys: Any) -> None:
    assert main(["--gpus", "4x24GB"]) == 1
    text = capsys.readouterr().out
    assert "It does not fit: GPU 0 lacks" in text
    assert "the smallest change first:\n  --quantize int4" in text


def test_a_tight_fit_is_called_so(capsys: Any) -> None:
    assert main(["--model", "chatglm-6b", "--gpus", "13GB", "--context", "1024"]) == 0
    assert "It fits, with less than 3% to spare" in capsys.readouterr().out


def test_json_adds_up(capsys: Any) -> None:
    found = answer(capsys, *GLM_130B)
    assert (found["fits"], found["split"], found["changes"]) == (True, "tensor parallel 4", [])
    assert len(found["devices"]) == 4
    for device in found["devices"]:
        parts = ("weights", "cache", "activations", "overhead")
        assert device["needed"] == sum(device[part] for part in parts)
        assert device["free"] == device["usable"] - device["needed"]
        assert device["cache"] == 2 * 70 * 2048 * 12288 * 2 // 4


def test_more_costs_more(capsys: Any) -> None:
    (few,) = answer(capsys, *GLM_130B, "--gpus", "800GB")["devices"]
    (many,) = answer(capsys, *GLM_130B, "--gpus", "800GB", "--batch", "2")["devices"]
    (long,) = answer(capsys, *GLM_130B, "--gpus", "800GB", "--context", "4096")["devices"]
    (packed,) = answer(capsys, *GLM_130B, "--gpus", "800GB", "--quantize-head")["devices"]
    assert many["cache"] == long["cache"] == 2 * few["cache"]
    assert few["activations"] < many["activations"] < long["activations"]  # the mask grows with the square
    assert (packed,) == tuple(
        answer(capsys, *GLM_130B, "--gpus", "800GB", "--embeddings")["devices"]
    )  # as it was called
    assert packed["weights"] == few["weights"] - 150528 * 12288 * 3 // 2 + 150528 * 2


@pytest.mark.parametrize(
    ("arguments", "split", "gpus"),
    [
        (["--gpus", "24GB"], "one GPU", 1),
        (["--gpus", "3x24GB"], "pipeline parallel 3", 3),
        (["--gpus", "4x24GB", "--pipeline-parallel", "4"], "pipeline parallel 4", 4),
        (["--gpus", "4x24GB", "--tensor-parallel", "2"], "tensor parallel 2, pipeline parallel 2", 4),
        (["--gpus", "4x24GB", "--device-map", "auto"], "device map auto", 4),
    ],
)
def test_splits(arguments: list[str], split: str, gpus: int, capsys: Any) -> None:
    found = answer(capsys, "--model", "chatglm-6b", *arguments)
    assert (found["split"], len(found["devices"])) == (split, gpus)


def test_cards_of_several_sizes(capsys: Any) -> None:
    found = answer(capsys, "--model", "chatglm-6b", "--gpus", "1x8GB,1x24GB")
    assert [device["usable"] for device in found["devices"]] == [int(8 * GIB * 0.972), int(24 * GIB * 0.972)]
    found = answer(capsys, "--model", "glm-130b", "--quantize", "int4", "--gpus", "3x24GB,1x11GB")
    assert not found["fits"]


def test_what_a_map_leaves_to_the_cpu(capsys: Any) -> None:
    assert main(["--gpus", "2x24GB", "--device-map", "auto"]) == 1
    assert "GiB of weights would go to CPU memory or disk" in capsys.readouterr().out


def test_a_folder_without_weights(tmp_path: Path, capsys: Any) -> None:
    config = small("chatglm", quantization_bit=4)
    write_json(tmp_path / "config.json", config.to_dict())
    found = answer(capsys, "--model", str(tmp_path), "--gpus", "8GB", "--context", "100")
    assert (found["weights"], found["fits"]) == ("INT4", True)
    assert main(["--model", str(tmp_path), "--gpus", "8GB", "--quantize", "int8"]) == 1
    assert "is INT4 already; name the float checkpoint" in capsys.readouterr().err
    assert main(["--model", str(tmp_path), "--gpus", "8GB", "--quantize", "int4"]) == 0


def test_a_context_beyond_the_training(capsys: Any) -> None:
    main(["--model", "chatglm-6b", "--gpus", "80GB", "--context", "5000"])
    assert "The model was trained for 2048 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the GPUs, as --gpus 4x24GB; or ask for --table"),
        (["--gpus", "lots"], "'lots' names no GPUs; write 24GB, 4x24GB"),
        (["--gpus", "0x24GB"], "there must be 1 to 4096 cards"),
        (["--gpus", "24GB", "--context", "0"], "--context: '0' is not a whole number of at least 1"),
        (["--gpus", "24GB", "--batch", "-2"], "--batch: '-2' is not a whole number of at least 1"),
        (["--gpus", "24GB", "--quantize", "int3"], "--quantize: 'int3' is not one of int8, int4"),
        (["--gpus", "4x24GB", "--tensor-parallel", "0"], "--tensor-parallel: '0' is not a whole number of at least 1"),
        (
            ["--gpus", "4x24GB", "--pipeline-parallel", "-1"],
            "--pipeline-parallel: '-1' is not a whole number of at least 1",
        ),
        (["--gpus", "4x24GB", "--tensor-parallel", "3"], "takes 3 GPUs; there are 4"),
        (["--gpus", "4x24GB", "--tensor-parallel", "8"], "takes 8 GPUs; there are 4"),
        (["--gpus", "4x24GB", "--device-map", "auto", "--tensor-parallel", "4"], "--device-map is one process"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("plan: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "24GB", "--model", "glm-13b"], "'glm-13b' is no folder and none of the presets chatglm-6b, "),
        (["--gpus", "24GB", "--quantize-head"], "add --quantize int8 or int4"),
        (["--gpus", "3x24GB", "--tensor-parallel", "3"], "inner_hidden_size 32768 does not divide by 3"),
        (["--gpus", "100x24GB", "--pipeline-parallel", "100"], "the model has 70 layers"),
    ],
)
def test_a_question_that_the_model_has_no_answer_to(arguments: list[str], message: str, capsys: Any) -> None:
    """The command line could be right for another model."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("plan: ")
    assert message in captured.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": "chatglm", "multi_query_attention": True}, "ChatGLM2-6B"),
        ({"model_type": "chatglm", "hidden_size": 100, "num_attention_heads": 7}, "does not divide"),
    ],
)
def test_a_folder_of_another_model(content: dict[str, Any], message: str, tmp_path: Path, capsys: Any) -> None:
    write_json(tmp_path / "config.json", content)
    assert main(["--model", str(tmp_path), "--gpus", "24GB"]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_a_config(tmp_path: Path, capsys: Any) -> None:
    assert main(["--model", str(tmp_path), "--gpus", "24GB"]) == 1
    assert "config.json" in capsys.readouterr().err
