"""transformers' Trainer on a model whose checkpoints have published names: it resumes, evaluates and keeps the best."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, Trainer, TrainingArguments

from tests.golden.data import FP32, GOLDEN


def rows() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    config = AutoModel.from_pretrained(GOLDEN / FP32).config
    found = []
    for _ in range(8):
        context, answer = torch.randint(5, 50, (2, 4), generator=generator)
        ids = torch.cat([context, torch.tensor([config.gmask_token_id, config.bos_token_id]), answer])
        found.append({"input_ids": ids, "labels": torch.where(torch.arange(len(ids)) < 6, -100, ids)})
    return found


def trained(folder: Path, steps: int, resume: Path | None = None, **settings: Any) -> dict[str, Tensor]:
    """The weights after some steps, one of which is saved after every second."""
    data = rows()
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=2, save_steps=2, learning_rate=1e-3, report_to=[],
        use_cpu=True, lr_scheduler_type="constant", disable_tqdm=True, **settings,
    )  # fmt: skip
    trainer = Trainer(AutoModel.from_pretrained(GOLDEN / FP32), arguments, train_dataset=data, eval_dataset=data)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    weights: dict[str, Tensor] = trainer.model.state_dict()
    return weights


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder with the checkpoint of step 2, and the weights after 4 steps in one."""
    folder = tmp_path_factory.mktemp("run")
    return folder / "checkpoint-2", trained(folder, 4)


@pytest.mark.parametrize("sharded", [False, True])
def test_resumed(run: tuple[Path, dict[str, Tensor]], sharded: bool, tmp_path: Path, log: Any) -> None:
    checkpoint, wanted = run
    if sharded:
        model = AutoModel.from_pretrained(checkpoint)
        (checkpoint / "model.safetensors").unlink()
        model.save_pretrained(checkpoint, max_shard_size="30KB")
        assert len(list(checkpoint.glob("*.safetensors"))) > 1
    assert_equal(trained(tmp_path, 4, checkpoint), wanted)
    assert "keys in the checkpoint" not in log.text  # what Trainer says of weights that were not found


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    """The best here is the one of the highest loss, the first."""
    best: dict[str, Any] = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,
    }
    found = trained(tmp_path, 4, eval_strategy="steps", eval_steps=2, **best)
    assert_equal(found, AutoModel.from_pretrained(tmp_path / "checkpoint-2").state_dict())
