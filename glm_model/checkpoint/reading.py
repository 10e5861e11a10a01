"""``from_pretrained`` that refuses what it cannot trust, instead of warning and babbling."""

import dataclasses
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from ..errors import CheckpointError
from ..model.prefix import train_prefix_alone
from ..parallel.world import World
from ..quantization.dtensor import local
from ..quantization.quantizer import GLMQuantizer
from ..quantization.rules import is_packed
from .configuration import require_known, require_model_type
from .files import StoredTensor, stored_tensors, weight_files
from .keys import PREFIX_ENCODER
from .lazy import LazyTensor, lazy_tensors
from .packing_checks import settle_quantization, unsound_layers

logger = logging.getLogger(__name__)

_SHOWN = 5  # tensors that a message names
# Arguments of `from_pretrained` that say where transformers looks for a config.json.
_FINDING = ("subfolder", "cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
_ROWS_OF_WORDS = ("transformer.word_embeddings.weight", "lm_head.weight")

_WORLD: ContextVar[World | None] = ContextVar("world of the model that is being loaded", default=None)


@contextmanager
def shared_over(world: World | None) -> Iterator[None]:
    """``from_pretrained`` loads the part of this rank; None changes nothing."""
    token = _WORLD.set(world)
    try:
        yield
    finally:
        _WORLD.reset(token)


class CheckedLoadingMixin(PreTrainedModel):
    """Raises :class:`CheckpointError` on damaged files and on missing, unexpected, misshapen or non-finite tensors.

    Only a P-Tuning prefix may be missing as a whole: the fine-tuning script loads a base model that has none, and the
    trained prefix afterwards.
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str] | None,
        *args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; files are checked first if the path is a folder, tensors always."""
        source, stored = "the given state_dict", {}
        if kwargs.get("subfolder", "") is None:
            del kwargs["subfolder"]  # transformers joins it to a path
        if pretrained_model_name_or_path is not None:
            source = str(pretrained_model_name_or_path)
            if Path(source).is_dir():
                stored = _inspect(Path(source), cls.config_class.model_type, kwargs)
        with _report_left_to_us():
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **kwargs,
            )
        problems = _Problems(model, source, stored)
        problems.refuse_missing(info["missing_keys"])
        problems.refuse_unexpected(info["unexpected_keys"])
        if not ignore_mismatched_sizes:
            problems.refuse_misshapen(info["mismatched_keys"])
        problems.refuse_unsound_packing()
        problems.refuse_not_finite()
        _part(model)
        if getattr(model.config, "pre_seq_len", None):
            train_prefix_alone(model)
        return (model, info) if output_loading_info else model

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: list[str] | None, load_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """transformers' step that reads the tensors into a model that has no memory yet.

        A part of a model, and a float checkpoint that is packed on the way, come tensor by tensor: transformers maps
        all files into memory at once and keeps them there until the end.
        """
        world, quantizer = _WORLD.get(), load_config.hf_quantizer
        if world is not None:
            model.share_out(world)
        packs = isinstance(quantizer, GLMQuantizer) and not quantizer.pre_quantized
        if packs:
            # The published integers are those of the file's dtype, so no cast before they are computed.
            uncast = {f"^{re.escape(name)}$": None for name in quantizer.float_weights}
            load_config = dataclasses.replace(load_config, dtype_plan={**load_config.dtype_plan, **uncast})
        if state_dict is None and checkpoint_files is not None and (packs or world is not None):
            state_dict = _one_by_one(model, checkpoint_files, quantizer if packs and world is None else None)
            if packs and world is None:
                checkpoint_files = None  # what goes to the disk is not what these hold
        info, offloaded = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )
        for tied, source in model.all_tied_weights_keys.items():
            if offloaded and source in offloaded:
                offloaded.setdefault(tied, offloaded[source])
        return info, offloaded


def _one_by_one(model: Any, files: list[str], quantizer: GLMQuantizer | None) -> dict[str, LazyTensor]:
    """The tensors of files, each read when transformers asks for it.

    Args:
        quantizer: packs the weights that it takes, so that these may be views into their file. None: everything is
            copied out of its file; a mapped file stays in memory with what other ranks need of it.
    """
    embeddings = quantizer is not None and quantizer.quantization_config.embeddings
    tensors = lazy_tensors(
        map(Path, files),
        kept=lambda name: quantizer is None or not is_packed(name.removesuffix(".weight"), embeddings),
    )
    for tied in model.all_tied_weights_keys:
        tensors.pop(tied, None)
    return tensors


def _inspect(folder: Path, model_type: str, options: dict[str, Any]) -> dict[str, StoredTensor]:
    """Check the files of a folder; the tensors in them by their published names."""
    folder = folder / options.get("subfolder", "")
    fields = _configuration(folder, model_type, options)
    stored = stored_tensors(weight_files(folder, options.get("use_safetensors"), options.get("variant")))
    settle_quantization(folder, fields, stored, options)
    return stored


def _configuration(folder: Path, model_type: str, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the configuration that a model in `folder` is loaded with: its own, or that of the options.

    Those may name, as in transformers, a file, a folder (it too with the subfolder in it) or one on the Hub.
    """
    config = options.get("config")
    if isinstance(config, PreTrainedConfig):
        return vars(config)
    if config is None:
        return require_model_type(folder, {model_type})
    finding = {name: options[name] for name in _FINDING if name in options}
    fields: dict[str, Any] = PreTrainedConfig.get_config_dict(config, **finding)[0]
    require_known(config, fields, {model_type})
    return fields


@contextmanager
def _report_left_to_us() -> Iterator[None]:
    """Keep transformers from logging a table of the problems that are about to be raised."""

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    reporter = logging.getLogger("transformers.modeling_utils")
    reporter.addFilter(is_other)
    try:
        yield
    finally:
        reporter.removeFilter(is_other)


class _Problems:
    """Says what is wrong with the tensors of one load, by file and published name."""

    def __init__(self, model: nn.Module, source: str, stored: dict[str, StoredTensor]) -> None:
        self.model, self.source, self.stored = model, source, stored
        renamings = get_checkpoint_conversion_mapping(model.config.model_type) or []  # type: ignore[union-attr]
        self.to_published = [renaming.reverse_transform() for renaming in reversed(renamings)]

    def refuse_missing(self, names: set[str]) -> None:
        if not names:
            return
        published = {self._published(name) for name in names}
        prefix = {self._published(name) for name in self.model.state_dict() if "prefix_encoder." in name}
        if prefix and prefix <= published:
            logger.warning(
                "%s has no P-Tuning prefix (%s*); it starts untrained. Load one with glm_model.load_prefix.",
                self.source,
                PREFIX_ENCODER,
            )
            published -= prefix
        if not published:
            return
        only_prefix = self.stored and all(PREFIX_ENCODER in name for name in self.stored)
        raise CheckpointError(
            f"{self.source} lacks {_listed(published)}. "
            + (
                "It holds a P-Tuning prefix alone: load the base model, then this folder with glm_model.load_prefix."
                if only_prefix
                else "The download may be incomplete, or config.json belongs to another checkpoint."
            )
        )

    def refuse_unexpected(self, names: set[str]) -> None:
        if not names:
            return
        published = {self._published(name) for name in names}
        has_prefix = any(name.startswith(PREFIX_ENCODER) for name in published)
        raise CheckpointError(
            f"{self._files(published)} holds tensors that this model does not have: {_listed(published)}. "
            + (
                "For the P-Tuning prefix config.json needs pre_seq_len and prefix_projection."
                if has_prefix
                else "Its config.json belongs to another checkpoint, or the file to another model."
            )
        )

    def refuse_misshapen(self, problems: set[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> None:
        if not problems:
            return
        name, found, needed = min(problems)
        published = self._published(name)
        rows_of_words = published in _ROWS_OF_WORDS and found[1:] == needed[1:]
        vocabulary = " (vocab_size was 150528 before 2023-04-06 and is 130528 since)" if rows_of_words else ""
        raise CheckpointError(
            f"{self._files({published})}: {published} has shape {list(found)}, but config.json asks for {list(needed)} "
            f"(so with {len(problems)} of the tensors). config.json belongs to another checkpoint{vocabulary}."
        )

    def refuse_unsound_packing(self) -> None:
        for name, fault in unsound_layers(self.model):
            published = self._published(name)
            raise CheckpointError(
                f"{self._files({published})}: {published} {fault}. The file is damaged, or of another model."
            )

    def refuse_not_finite(self) -> None:
        for name, parameter in self.model.named_parameters():
            if not _is_finite(parameter):
                published = self._published(name)
                raise CheckpointError(
                    f"{self._files({published})}: {published} holds values that are NaN or infinite in "
                    f"{str(parameter.dtype).removeprefix('torch.')}. The file is damaged, or the weights need a wider "
                    "dtype (bfloat16 or float32)."
                )

    def _published(self, name: str) -> str:
        for renaming in self.to_published:
            name, _ = renaming.rename_source_key(name)
        return name

    def _files(self, published: set[str]) -> str:
        """The files that hold these tensors, or what was loaded if it is not known."""
        files = {str(self.stored[name].file) for name in published if name in self.stored}
        return ", ".join(sorted(files)) or self.source


def _part(model: nn.Module) -> None:
    """Give parameters that are not tied a storage each; a .bin may hold head and embedding as one."""
    seen = set()
    for parameter in model.parameters():
        place = local(parameter).data_ptr()
        if place in seen and not parameter.is_meta:
            parameter.data = parameter.data.clone()
        seen.add(place)


def _is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; one pass at memory speed (30 GB/s on two cores), no copy."""
    values = local(values)
    if values.is_meta or values.numel() == 0 or not values.is_floating_point():
        return True
    return bool(torch.stack(torch.aminmax(values.detach())).isfinite().all())


def _listed(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
