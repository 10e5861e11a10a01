"""Load checkpoints with ``from_pretrained``, and raise an error where transformers would only warn.

A folder is loaded in four steps, of which the first and the third differ from transformers' own:

1. ``from_pretrained`` (public) reads the configuration, once, and checks the folder before transformers does, whose
   messages name neither the file nor the remedy.
2. transformers chooses the files, the quantizer and the devices, and makes the model on the meta device.
3. ``_load_pretrained_model`` (private; :class:`CheckedLoading` gives the reason) reads the tensors into the model.
   Headers are checked before, names and values after, so transformers finds nothing left to report.
4. transformers initializes a P-Tuning prefix that was not in the file, ties the head and attaches offloading hooks.
"""

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..model.prefix import train_prefix_alone
from ..model.runtime import World
from ..quantization.dtensor import local
from ..quantization.quantizer import GLMQuantizer
from ..quantization.rules import is_packed
from .boundary import reading, reading_by_transformers
from .configuration import config_from_fields, require_known, require_model_type, require_readable
from .distribution import require_distribution
from .files import CONFIG, StoredTensor, stored_tensors, weight_files
from .lazy import LazyTensor, lazy_tensors
from .packing_checks import settle_quantization
from .private_pages import move_weights
from .quiet import quiet_reading
from .size_checks import require_layers
from .state_dicts import own_device_map
from .tensor_checks import LoadingInfo, TensorChecks

_MODEL_OPTIONS = ("dtype", "torch_dtype", "quantization_config")
"""Arguments of `from_pretrained` that are not for the configuration, though it has attributes of these names."""

_FINDING = ("subfolder", "cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
"""Arguments of `from_pretrained` that say where transformers looks for a config.json."""

_WORLD: ContextVar[World | None] = ContextVar("world of the model that is being loaded", default=None)


@contextmanager
def shared_over(world: World | None) -> Iterator[None]:
    """Let ``from_pretrained`` load only this rank's part of a model while the context is open; None changes nothing."""
    token = _WORLD.set(world)
    try:
        yield
    finally:
        _WORLD.reset(token)


class CheckedLoading(PreTrainedModel):
    """``PreTrainedModel`` whose loading raises :class:`CheckpointError` where transformers would warn and go on.

    A private method is overridden because transformers has no public hook between making a model and reading its
    tensors. There the model is cut to this rank's part, headers are checked against it, and weights that are to be
    packed are excluded from casting. Problems raise an error before transformers logs them as a table and initializes
    missing tensors.
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str] | None,
        *args: Any,
        config: PreTrainedConfig | str | PathLike[str] | None = None,
        **options: Any,
    ) -> Any:
        """Load a model as transformers does; check the files first if the path is a folder, and the tensors always."""
        if options.get("subfolder", "") is None:
            del options["subfolder"]  # transformers joins it to a path
        place = pretrained_model_name_or_path
        folder = Path(place, options.get("subfolder", "")) if place is not None and Path(place).is_dir() else None
        if not isinstance(config, PreTrainedConfig):
            config, options = _read_configuration(cls.config_class, config, folder or place, options)
        if isinstance(config, PreTrainedConfig):
            config = copy.deepcopy(config)
            settle_quantization(str(place), config, options)
            require_distribution(config, options)
        if folder is not None:
            _check_files(folder, config, options)
        device_map = options.get("device_map")
        if isinstance(device_map, dict) and device_map.keys() - {""}:
            with torch.device("meta"):
                options["device_map"] = own_device_map(cls(config), device_map)
        # A quantization of another method is read from the file by its library, whose errors name nothing.
        is_elsewhere = getattr(config, "quantization_config", None) is not None and not getattr(
            config, "quantization_bit", 0
        )
        named = reading(str(place)) if is_elsewhere else reading_by_transformers(place)
        with named, quiet_reading(reports=bool(options.get("ignore_mismatched_sizes"))):
            return super().from_pretrained(place, *args, config=config, **options)

    @property
    def device(self) -> torch.device:
        """The device of ids and logits, also for a model that a device map has spread or offloaded."""
        device: torch.device = super().device
        if device.type != "meta" or not hasattr(self, "hf_device_map"):
            return device
        used = [place for place in self.hf_device_map.values() if place not in ("cpu", "disk")]
        return torch.device(used[0] if used else "cpu")

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: list[str] | None, load_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Read the tensors into a model on the meta device; see the class.

        A part of a model, and a float checkpoint that is packed while it is read, are read tensor by tensor, because
        transformers maps all files into memory at once and keeps them there until the end.
        """
        world, quantizer = _WORLD.get(), load_config.hf_quantizer
        packer = quantizer if isinstance(quantizer, GLMQuantizer) and not quantizer.pre_quantized else None
        is_from_files = state_dict is None and checkpoint_files is not None
        stored = stored_tensors(map(Path, checkpoint_files or ())) if is_from_files else {}
        source = str(load_config.pretrained_model_name_or_path or "the given state_dict")
        checks = TensorChecks(model, source, stored)
        checks.check_headers(quantizer, load_config.ignore_mismatched_sizes)
        if world is not None:
            model.share_out(world)
        if packer is not None:
            # The published integers were computed from the file's dtype, so weights are packed before any cast.
            uncast = {f"^{re.escape(name)}$": None for name in packer.float_weights}
            load_config = dataclasses.replace(load_config, dtype_plan={**load_config.dtype_plan, **uncast})
        if is_from_files and (packer is not None or world is not None):
            state_dict = _one_by_one(model, stored, packer if world is None else None)
            if packer is not None and world is None:
                checkpoint_files = None  # weights offloaded to disk are packed, which these files are not
        info, offloaded = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )
        checks.refuse_unconverted(info.conversion_errors)
        checks.check_names(info, load_config.ignore_mismatched_sizes)
        _tie(model, info, offloaded)
        checks.check_values()
        _separate_storages(model)
        _keep_offloaded_scales(model, offloaded or {}, stored)
        if getattr(model.config, "pre_seq_len", None):
            train_prefix_alone(model)
        if is_from_files and packer is None and world is None:
            move_weights(model)
        return info, offloaded


def _read_configuration(
    config_class: type[PreTrainedConfig],
    config: str | PathLike[str] | None,
    place: str | PathLike[str] | None,
    options: dict[str, Any],
) -> tuple[PreTrainedConfig | None, dict[str, Any]]:
    """Read the configuration that a model is loaded with, once.

    Args:
        config_class: the class of the configuration.
        config: as in transformers, a file, a folder (including the subfolder) or a name on the Hub.
        place: the place of the weights, used if ``config`` is None: a folder (including the subfolder) or a name on the
            Hub.
        options: arguments of ``from_pretrained``; those that name fields of the configuration replace its values.

    Returns:
        The configuration, or None if there is no place to read one from; and the options that name no field of it.
    """
    known = {config_class.model_type}
    if config is None and isinstance(place, Path):
        fields, source = require_model_type(place, known), place / CONFIG
    elif (named := config or place) is not None:
        finding = {name: options[name] for name in _FINDING if name in options}
        fields, source = PreTrainedConfig.get_config_dict(named, **finding)[0], Path(named)
        require_known(named, fields, known)
    else:
        return None, options
    overruling = {name: value for name, value in options.items() if name not in _MODEL_OPTIONS}
    read, others = config_from_fields(config_class, fields, source, **overruling)
    return read, {name: value for name, value in options.items() if name in _MODEL_OPTIONS or name in others}


def _check_files(folder: Path, config: PreTrainedConfig | None, options: Mapping[str, Any]) -> None:
    """Raise CheckpointError if a file of the folder is missing or damaged, before transformers looks for it."""
    require_readable(folder, config)
    files = weight_files(folder, options.get("use_safetensors"), options.get("variant"))
    if config is not None and options.get("state_dict") is None and not options.get("ignore_mismatched_sizes"):
        require_layers(folder, config, stored_tensors(files))
        return
    dtype = options.get("dtype") or options.get("torch_dtype") or "auto"
    if dtype == "auto" and getattr(config, "dtype", None) is None:
        stored_tensors(files[:1])  # transformers opens it to find the dtype


def _one_by_one(
    model: PreTrainedModel, stored: Mapping[str, StoredTensor], packer: GLMQuantizer | None
) -> dict[str, LazyTensor]:
    """Return the tensors of files by name, each of which is read when transformers uses it.

    Args:
        model: the model that is loaded; its tied weights are left out.
        stored: headers of the tensors in the files.
        packer: the quantizer. It packs the weights that it takes at once, so these may be views into their file. With
            None every tensor is copied out of its file, because the mapping would keep other ranks' parts in memory.
    """
    embeddings = packer is not None and packer.quantization_config.embeddings
    return lazy_tensors(
        {name: header for name, header in stored.items() if name not in model.all_tied_weights_keys},
        kept=lambda name: packer is None or not is_packed(name.removesuffix(".weight"), embeddings),
    )


def _tie(model: PreTrainedModel, info: LoadingInfo, offloaded: dict[str, Any] | None) -> None:
    """Tie the head to the embedding, as the original does even if the file holds another head.

    transformers would untie the two in that case. It leaves a head alone that is listed as missing.
    """
    tied = model.all_tied_weights_keys
    model.tie_weights(recompute_mapping=False)
    info.missing_keys.update(tied)
    if offloaded is not None:
        offloaded.update({name: offloaded[source] for name, source in tied.items() if source in offloaded})


def _keep_offloaded_scales(model: nn.Module, offloaded: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> None:
    """Let scales on the disk keep the dtype of their file; transformers notes that of the new model for all tensors."""
    for name, entry in offloaded.items():
        if name.endswith(".weight_scale"):
            if (header := stored.get(entry["weight_name"])) is not None:
                entry["dtype"] = str(header.dtype).removeprefix("torch.")
            parameter = model.get_parameter(name)
            parameter.data = parameter.data.to(getattr(torch, entry["dtype"]))


def _separate_storages(model: nn.Module) -> None:
    """Give every parameter that is not tied a storage of its own, in which its values lie one behind another.

    A .bin may store head and embedding as one, and a transposed matrix as such, which fast kernels do not take.
    """
    seen = set()
    for parameter in model.parameters():
        place = local(parameter).data_ptr()
        if place in seen and not parameter.is_meta:
            parameter.data = parameter.data.clone()
        elif not local(parameter).is_contiguous():
            parameter.data = parameter.data.contiguous()
        seen.add(place)
