"""How the published GLM-130B archives are cut: which tensors by rows, by columns, by halves, and not at all."""

import torch

from glm_model.conversion.tensor_parallel import cut_of, join, split

LAYER = "transformer.layers.3."


def numbered(rows: int, columns: int) -> torch.Tensor:
    return torch.arange(rows * columns).view(rows, columns)


def test_cut_by_rows_embedding_and_query_key_value() -> None:
    whole = numbered(6, 2)
    names = [
        "transformer.word_embeddings.weight",
        LAYER + "attention.query_key_value.weight",
        LAYER + "attention.query_key_value.bias",
    ]
    for name in names:
        assert torch.equal(join([whole[:2], whole[2:4], whole[4:]], cut_of(name)), whole)


def test_cut_by_columns_dense_and_dense_4h_to_h_whose_bias_is_whole() -> None:
    whole, bias = numbered(2, 6), torch.arange(2)
    for layer in (LAYER + "attention.dense", LAYER + "mlp.dense_4h_to_h"):
        parts = [whole[:, :2], whole[:, 2:4], whole[:, 4:]]
        assert torch.equal(join(parts, cut_of(layer + ".weight")), whole)
        assert torch.equal(join([bias] * 3, cut_of(layer + ".bias")), bias)


def test_cut_by_halves_each_rank_has_its_part_of_x1_and_its_part_of_x2() -> None:
    """Of two ranks: rank 0 has rows 0, 1 and 4, 5 of eight, rank 1 the others; weight, bias and scales alike."""
    whole = numbered(8, 2)
    parts = [whole[[0, 1, 4, 5]], whole[[2, 3, 6, 7]]]
    for kind in ("weight", "bias", "weight_scale"):
        cut = cut_of(f"{LAYER}mlp.dense_h_to_4h.{kind}")
        assert torch.equal(join(parts, cut), whole)
        assert all(map(torch.equal, split(whole, cut, 2), parts))


def test_cut_not_at_all_layer_norms() -> None:
    norm = torch.arange(4)
    for name in (LAYER + "input_layernorm", LAYER + "post_attention_layernorm", "transformer.final_layernorm"):
        for kind in ("weight", "bias"):
            assert torch.equal(join([norm, norm], cut_of(f"{name}.{kind}")), norm)


def test_cut_of_scales_every_rank_has_its_own_for_the_same_rows() -> None:
    cut = cut_of(LAYER + "attention.dense.weight_scale")
    ours, theirs = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert join([ours, theirs], cut).tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert join([ours, ours], cut).tolist() == [1.0, 2.0]
    assert [part.tolist() for part in split(join([ours, theirs], cut), cut, 2)] == [[1.0, 2.0], [3.0, 4.0]]
