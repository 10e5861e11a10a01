"""Under lm-eval itself: its program interface, its command, its local tasks. Skipped where lm-eval is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glm_model import UnsupportedError
from glm_model.evaluation import __main__
from glm_model.loading import DEMO_MODEL
from tests.evaluation import reference

ROOT = Path(__file__).parent.parent.parent
TASKS = ROOT / "tests" / "evaluation" / "tasks"
WHOLE_TEXTS = """\
task: glm_demo_text
dataset_path: json
dataset_kwargs:
  cache_dir: {cache}
  data_files:
    test: demo_questions.jsonl
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
metric_list:
  - metric: byte_perplexity
"""


def test_without_lm_eval_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert __main__.main() == 1
    assert "pip install 'lm-eval" in capsys.readouterr().err


@pytest.fixture(scope="module")
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval", reason="not installed: pip install 'lm-eval>=0.4.13' (extra eval)")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's tasks on every fifteenth row, and a task that scores the questions as whole texts."""
    monkeypatch.chdir(tmp_path)
    for name in ("demo_cloze", "demo_questions"):
        rows = (TASKS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[::15]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        yaml = (TASKS / f"{name}.yaml").read_text(encoding="utf-8").replace(f"tests/evaluation/tasks/{name}", name)
        yaml = yaml.replace("dataset_kwargs:", f"dataset_kwargs:\n  cache_dir: {tmp_path / 'cache'}")
        (tmp_path / f"{name}.yaml").write_text(yaml, encoding="utf-8")
    (tmp_path / "demo_text.yaml").write_text(WHOLE_TEXTS.format(cache=tmp_path / "cache"), encoding="utf-8")
    return tmp_path


def run(lm_eval: Any, tasks: Path, name: str, batch_size: int, **arguments: Any) -> Any:
    from lm_eval.tasks import TaskManager

    import glm_model.evaluation.harness  # noqa: F401 - registers the model

    return lm_eval.simple_evaluate(
        model="glm",
        model_args={"path": str(DEMO_MODEL), **arguments},
        tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=batch_size,
        device="cpu",
        bootstrap_iters=0,
    )


def rows(tasks: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tasks / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", ["demo", "demo_int4"])
def test_multiple_choice(lm_eval: Any, tasks: Path, name: str, batch_size: int, request: Any) -> None:
    """The accuracy and each log-likelihood of a local task, against one sequence at a time."""
    model, tokenizer = request.getfixturevalue(name)
    quantize = {"quantize": "int4"} if name == "demo_int4" else {}
    results = run(lm_eval, tasks, "glm_demo_cloze", batch_size, **quantize)
    questions = rows(tasks, "demo_cloze")
    wanted = [by_hand(model, tokenizer, row["inputs_pretokenized"], row["choices_pretokenized"]) for row in questions]
    samples = sorted(results["samples"]["glm_demo_cloze"], key=lambda sample: sample["doc_id"])
    found = [[likelihood for ((likelihood, _),) in sample["resps"]] for sample in samples]
    assert found == [pytest.approx(scores, abs=1e-4) for scores in wanted]
    right = [scores.index(max(scores)) == row["label"] for scores, row in zip(wanted, questions, strict=True)]
    assert results["results"]["glm_demo_cloze"]["acc,none"] == pytest.approx(sum(right) / len(right))


def by_hand(model: Any, tokenizer: Any, text: str, choices: list[str]) -> list[float]:
    before, after = text.split("[MASK]")
    start = tokenizer.encode_text(before)
    context = [*start, model.config.mask_token_id, *tokenizer.encode_text(after)]
    return [
        reference.log_probability(model, context, len(start), tokenizer.encode_text(choice))[0] for choice in choices
    ]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_generate_until(lm_eval: Any, tasks: Path, demo: Any, batch_size: int) -> None:
    model, tokenizer = demo
    results = run(lm_eval, tasks, "glm_demo_questions", batch_size)
    for sample in results["samples"]["glm_demo_questions"]:
        prompt = tokenizer(sample["doc"]["question"], return_tensors="pt").input_ids
        answer = model.generate(prompt, max_new_tokens=64, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert sample["resps"][0][0] == tokenizer.decode_exact(answer).partition("\n")[0]


def test_a_whole_text(lm_eval: Any, tasks: Path, demo: Any) -> None:
    model, tokenizer = demo
    results = run(lm_eval, tasks, "glm_demo_text", 4)
    for sample in results["samples"]["glm_demo_text"]:
        ids = tokenizer.encode_text(sample["doc"]["question"])
        wanted, _ = reference.log_probability(model, [model.config.gmask_token_id], 0, ids)
        assert sample["resps"][0][0] == pytest.approx(wanted, abs=1e-4)


def test_the_command(lm_eval: Any, tasks: Path) -> None:
    words = ["--model", "glm", "--model_args", f"path={DEMO_MODEL},max_length=64", "--include_path", str(tasks)]
    done = subprocess.run(
        [sys.executable, "-m", "glm_model.evaluation", *words, "--tasks", "glm_demo_cloze", "--batch_size", "8"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "|glm_demo_cloze|" in done.stdout


def test_a_cut_context_is_told(lm_eval: Any, caplog: pytest.LogCaptureFixture) -> None:
    from lm_eval.api.instance import Instance

    from glm_model.evaluation.harness import GLMHarness

    model = GLMHarness(str(DEMO_MODEL), device="cpu", max_length=8)
    request = Instance("loglikelihood", {}, ("The capital of France is not Rome, is it?", " Paris"), 0)
    model.loglikelihood([request], disable_tqdm=True)
    assert "1 of 1 contexts are longer than the model takes" in caplog.text


def test_chat_template(lm_eval: Any) -> None:
    from glm_model.evaluation.harness import GLMHarness

    model = GLMHarness(str(DEMO_MODEL), device="cpu")
    rounds = [("user", "Hi"), ("assistant", "Hello!"), ("user", "2 + 2?")]
    messages = [{"role": role, "content": content} for role, content in rounds]
    assert model.apply_chat_template(messages) == "[Round 0]\n问：Hi\n答：Hello!\n[Round 1]\n问：2 + 2?\n答："
    with pytest.raises(UnsupportedError, match="begun"):
        model.apply_chat_template(messages, add_generation_prompt=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "path="),
        ({"path": "x", "batch_size": "auto"}, "batch_size"),
        ({"path": "x", "mask": "no"}, "mask"),
        ({"path": "x", "quantize": "int3"}, "quantize must be one of int8, int4"),
        ({"path": "x", "quantise": "int4"}, "quantise is no argument of the model glm"),
    ],
)
def test_arguments_out_of_range(lm_eval: Any, arguments: dict[str, Any], message: str) -> None:
    from glm_model.evaluation.harness import GLMHarness

    with pytest.raises(ValueError, match=message):
        GLMHarness(**arguments)
