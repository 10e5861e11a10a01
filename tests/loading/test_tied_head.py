"""Without tie_word_embeddings in config.json the embedding is the head, whatever the file's head says."""

import pytest
import torch
from transformers import AutoModel

from glm_model import CheckpointError
from tests.checkpoints import FILES
from tests.loading.conftest import Checkpoint

EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
EACH_KIND = pytest.mark.parametrize(("file_format", "shards"), FILES)


@EACH_KIND
@pytest.mark.parametrize("tied", [{}, {"tie_word_embeddings": True}])
def test_a_differing_head_is_ignored(
    checkpoint: Checkpoint, tied: dict[str, bool], file_format: str, shards: int, log: pytest.LogCaptureFixture
) -> None:
    checkpoint.tensors[HEAD] = checkpoint.tensors[HEAD] + 1
    checkpoint.write(file_format, shards)
    checkpoint.configure(**tied)
    model = AutoModel.from_pretrained(checkpoint.folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, checkpoint.tensors[EMBEDDING])
    assert not log.records


@EACH_KIND
def test_it_counts_if_the_configuration_says_so(checkpoint: Checkpoint, file_format: str, shards: int) -> None:
    checkpoint.tensors[HEAD] = checkpoint.tensors[HEAD] + 1
    checkpoint.write(file_format, shards)
    checkpoint.configure(tie_word_embeddings=False)
    model = AutoModel.from_pretrained(checkpoint.folder)
    assert torch.equal(model.lm_head.weight, checkpoint.tensors[HEAD])
    assert torch.equal(model.model.embed_tokens.weight, checkpoint.tensors[EMBEDDING])


@EACH_KIND
def test_equal_and_untied(checkpoint: Checkpoint, file_format: str, shards: int) -> None:
    """Equal numbers are no tie: training one must not change the other. In a .bin they even share their storage."""
    checkpoint.tensors[HEAD] = checkpoint.tensors[EMBEDDING]
    checkpoint.write(file_format, shards)
    checkpoint.configure(tie_word_embeddings=False)
    model = AutoModel.from_pretrained(checkpoint.folder)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    assert torch.equal(model.model.embed_tokens.weight, checkpoint.tensors[EMBEDDING])


@EACH_KIND
def test_no_head_in_the_file(checkpoint: Checkpoint, file_format: str, shards: int) -> None:
    del checkpoint.tensors[HEAD]
    checkpoint.write(file_format, shards)
    model = AutoModel.from_pretrained(checkpoint.folder)
    assert torch.equal(model.lm_head.weight, checkpoint.tensors[EMBEDDING])
    checkpoint.configure(tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lacks lm_head\.weight"):
        AutoModel.from_pretrained(checkpoint.folder)


@EACH_KIND
@pytest.mark.parametrize("tied", [True, False])
def test_no_embedding_in_the_file(checkpoint: Checkpoint, tied: bool, file_format: str, shards: int) -> None:
    del checkpoint.tensors[EMBEDDING]
    checkpoint.write(file_format, shards)
    checkpoint.configure(tie_word_embeddings=tied)
    with pytest.raises(CheckpointError, match=r"lacks .*transformer\.word_embeddings\.weight"):
        AutoModel.from_pretrained(checkpoint.folder)
