"""Models in parts, on two and four processes, against the same models in one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel.models import PROMPTS, ask, read, ready, write_models
from tests.parallel.processes import finish, start

FOUR = ["chatglm", "chatglm-int4", "glm130b", "glm130b-int4"]
STORED = [*FOUR, "chatglm-int8", "chatglm-int4-embeddings", "chatglm-untied", "chatglm-prefix"]
FOUR = [*FOUR, "chatglm+int4", "glm130b+int8"]  # packed while they load
ALL = [*STORED, "chatglm+int4", "glm130b+int8", "glm130b+int4-head", "chatglm-int4+head"]
LAYOUTS = {"2x1": ALL, "1x2": ALL, "4x1": FOUR, "2x2": FOUR, "1x4": FOUR}  # tensor x pipeline
PROCESSES = {2: (ALL, ["2x1", "1x2"]), 4: (FOUR, ["4x1", "2x2", "1x4"])}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    assert set(write_models(folder)) == set(STORED)
    return folder


@pytest.fixture(scope="module")
def whole(models: Path) -> dict[str, dict[str, Any]]:
    """What each model answers in one process, and its bytes."""
    answers = {}
    for name in ALL:
        model = ready(read(models / name), models / name)
        tensors = {each.data_ptr(): each.nbytes for each in (*model.parameters(), *model.buffers())}
        answers[name] = {**ask(model), "bytes": sum(tensors.values())}
    return answers


@pytest.fixture(scope="module")
def results(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the ranks of all layouts have written down."""
    results = tmp_path_factory.mktemp("results")
    for size, (names, layouts) in PROCESSES.items():
        ranks = start(size, "-m", "tests.parallel.rank", models, results, ",".join(names), *layouts)
        for code, _, errors in finish(ranks):
            assert code == 0, errors
    return results


@pytest.fixture(scope="module")
def parts(results: Path) -> dict[str, list[dict[str, Any]]]:
    """What each rank of each layout answers: ``parts["2x2"][rank][name]``."""
    return {
        layout: [torch.load(results / f"{layout}-{rank}.pt", weights_only=True) for rank in range(size)]
        for layout, size in [
            ("native", 2),
            *((layout, size) for size, (_, many) in PROCESSES.items() for layout in many),
        ]
    }


EACH = [(layout, name) for layout, names in LAYOUTS.items() for name in names]


@pytest.mark.parametrize(("layout", "name"), EACH)
def test_every_rank_answers_as_one_process(layout: str, name: str, whole: Any, parts: Any) -> None:
    expected = whole[name]
    for rank in parts[layout]:
        answers = rank[name]
        scale = expected["logits"].abs().max()
        assert (answers["logits"] - expected["logits"]).abs().max() <= 1e-5 * scale
        for what in ("greedy", "beams", "sampled", "filled", "parameters"):
            assert answers[what] == expected[what], what
    assert max(map(len, expected["greedy"])) > 13  # there was something to compare


# A prefix is whole on every rank, four stages of these few layers cannot weigh the same, and stages are cut before a
# head is packed.
SHARED = [
    (layout, name)
    for layout, name in EACH
    if layout != "1x4" and "prefix" not in name and (layout, name) != ("1x2", "chatglm-int4+head")
]


@pytest.mark.parametrize(("layout", "name"), SHARED)
def test_no_rank_holds_much_more_than_its_share(layout: str, name: str, whole: Any, parts: Any) -> None:
    share = whole[name]["bytes"] / len(parts[layout])
    held = [rank[name]["bytes"] for rank in parts[layout]]
    assert sum(held) >= whole[name]["bytes"]
    assert max(held) <= 1.2 * share


def test_a_part_is_not_saved_as_if_it_were_the_model(parts: Any) -> None:
    assert all("part of the model" in rank["chatglm"]["saving"] for rank in parts["2x1"])


@pytest.mark.parametrize("name", [name for name in ALL if not name.endswith("+head")])
def test_the_plan_as_transformers_applies_it(name: str, models: Path, parts: Any) -> None:
    expected = read(models / name).generate(torch.tensor(PROMPTS[:1]), max_new_tokens=3, do_sample=False)
    for rank in parts["native"]:
        assert rank[name] == expected.tolist()
