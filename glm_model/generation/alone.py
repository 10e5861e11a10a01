"""Run the writer of one answer by itself."""

from collections.abc import Generator
from contextlib import closing

from ..model.decoder import GLMForCausalLM
from .passes import DecodingBatch
from .requests import Insert, Returned, Step, Writer, Written
from .row_passes import CachedRows, RowPasses


def run(model: GLMForCausalLM, writer: Writer[Written, Returned]) -> Generator[Written, None, Returned]:
    """Yield what a writer writes, and return what it returns.

    Args:
        model: the model that computes what the writer requests. On several ranks, that of rank 0.
        writer: closed at the end, or when the iterator is closed.
    """
    # Whole prompts are what CUDA graphs, caches of callers, and layers on several devices can be used with.
    passes = DecodingBatch(model) if model.runtime.leader is None else RowPasses(model, CachedRows(model))
    with closing(writer):
        try:
            item = next(writer)
            while True:
                if not isinstance(item, Insert | Step):
                    yield item
                    item = next(writer)
                elif isinstance(result := passes.execute(item), Exception):
                    item = writer.throw(result)
                else:
                    item = writer.send(result)
        except StopIteration as end:
            returned: Returned = end.value
            return returned
