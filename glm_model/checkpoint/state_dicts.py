"""Understand published names wherever a model is given tensors without ``from_pretrained``.

Trainer reads its checkpoints so when it resumes, and so do ``load_sharded_checkpoint``, accelerate, and code of the
fine-tuning repository. All end in ``load_state_dict``, where the names become those of this package.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import CheckpointError
from .keys import own_name

_SHOWN = 3  # tensors that a message names


class PublishedNames(PreTrainedModel):
    """``PreTrainedModel`` whose ``load_state_dict`` understands published names, also inside a wrapper.

    ``strict`` keeps its meaning, but tensors of which none belongs to the model are an error also with
    ``strict=False``. Frequencies in a published file are ignored, as ``from_pretrained`` does. A tied head is the
    embedding, whatever the tensors say.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_pre_hook(_understand)
        self.register_load_state_dict_post_hook(_tie_again)


def _understand(model: PreTrainedModel, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Rename the tensors of a model in a state dict in place; their names begin with ``prefix`` inside a wrapper."""
    given = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    own = own_tensors(model, {name.removeprefix(prefix): value for name, value in given.items()})
    state_dict.update({prefix + name: value for name, value in own.items()})


def own_tensors(model: PreTrainedModel, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors by their names in a model, without those that it ignores, and as it keeps them.

    Args:
        model: a model of this package.
        tensors: all of a file or a part, by published names or the model's own.

    Raises:
        CheckpointError: none of them belongs to the model; or one is packed where the model's is float.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    named = own_names(model, tensors)
    # Where a tensor is there under both names the published one is of the file: torch.distributed adds the model's own.
    found = {own: tensors[name] for name, own in sorted(named.items(), key=lambda both: both[0] != both[1])}
    for tied, source in model.all_tied_weights_keys.items():
        if source in found:
            found[tied] = found[source]
    if found and not found.keys() & parameters.keys():
        raise CheckpointError(_nothing_fits(model, named))
    return {name: _as_kept(model, name, value, parameters) for name, value in found.items()}


def own_names(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """Return the names in a model of tensors by their given names, without tensors that the model ignores."""
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    named = {name: _own_name(model, name, known) for name in names}
    return {name: own for name, own in named.items() if own in known or not _is_ignored(model, own)}


def own_device_map(model: PreTrainedModel, device_map: Mapping[str, Any]) -> dict[str, Any]:
    """Return a device map with the names of a model's modules in the place of published names.

    A published map places everything that has weights. The rotary frequencies, which no file holds, go where the
    embedding is.
    """
    modules = dict(model.named_modules())
    found = {_own_name(model, name, modules) if name else name: place for name, place in device_map.items()}
    rotary, embedding = (_own_name(model, name, modules) for name in ("rotary_emb", "word_embeddings"))
    if found.keys() != device_map.keys() and embedding in found:
        found.setdefault(rotary, "cpu" if found[embedding] == "disk" else found[embedding])
    return found


def _own_name(model: PreTrainedModel, name: str, known: Collection[str]) -> str:
    """Return the name in a model of a tensor or a module with a published name.

    The decoder alone has the names of the whole model without their common start.
    """
    start = f"{model.base_model_prefix}."
    own = own_name(name)
    candidates = (name, own, start + own, own.removeprefix(start))
    return next((candidate for candidate in candidates if candidate in known), own)


def _is_ignored(model: PreTrainedModel, name: str) -> bool:
    return any(re.search(pattern, name) for pattern in model._keys_to_ignore_on_load_unexpected or ())


def _as_kept(model: PreTrainedModel, name: str, value: Any, parameters: Mapping[str, nn.Parameter]) -> Any:
    """Return a tensor as the model keeps it: LayerNorm and prefix not in half. Raise CheckpointError if it is packed.

    torch would copy packed integers into a float weight of their shape.
    """
    parameter = parameters.get(name)
    if not isinstance(value, Tensor) or parameter is None or not parameter.is_floating_point():
        return value
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{name} is {kind} and the model's is not packed: call model.quantize(bits) with the bits of the file "
            "before load_state_dict, or load the folder with from_pretrained."
        )
    return value.float() if kept_in_float32(model, name) and value.dtype.itemsize < 4 else value


def keeps_dtype(model: PreTrainedModel, name: str) -> bool:
    """Return whether no cast narrows a tensor: what stays float32, and the scales of a packed weight."""
    return name.endswith(".weight_scale") or kept_in_float32(model, name)


def kept_in_float32(model: PreTrainedModel, name: str) -> bool:
    """Return whether a tensor stays float32 in a half model: LayerNorm and a P-Tuning prefix."""
    return any(part in (model._keep_in_fp32_modules_strict or ()) for part in name.split("."))


def _tie_again(model: PreTrainedModel, _: object) -> None:
    """Tie the head to the embedding again, which ``load_state_dict(assign=True)`` parts."""
    ties = model.all_tied_weights_keys.items()
    if any(model.get_parameter(tied) is not model.get_parameter(source) for tied, source in ties):
        model.tie_weights(recompute_mapping=False)


def _nothing_fits(model: PreTrainedModel, names: Collection[str]) -> str:
    if all("prefix_encoder." in name for name in names):
        remedy = (
            "They are a P-Tuning prefix: use glm_model.load_prefix, or load the model with its pre_seq_len and "
            "prefix_projection first."
        )
    elif any("lora_" in name for name in names):
        remedy = "They are a LoRA adapter, which PEFT puts on a model: PeftModel.from_pretrained(model, FOLDER)."
    elif all(name.startswith(("module.", "base_model.model.")) for name in names):
        remedy = "They were saved from a wrapped model: remove the start of their names (module., base_model.model.)."
    else:
        remedy = "They are of another model."
    return f"none of the given tensors belongs to this {type(model).__name__}: {listed(names)}. {remedy}"


def listed(names: Collection[str]) -> str:
    """Return the first of some names, and the number of the others."""
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
