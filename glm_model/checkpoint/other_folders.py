"""Recognise folders that hold something else than a Hugging Face checkpoint of GLM, and say what to do with them."""

from pathlib import Path

_RANKS = "mp_rank_*_model_states.pt"
_FOREIGN_MAGIC = (b"ggml", b"lmgg", b"ggjt", b"tjgg", b"ggla", b"GGUF")
_FOREIGN_FILES = {
    "*.gguf": "llama.cpp",
    "*ggml*": "chatglm.cpp",
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "*.onnx": "ONNX",
    "openvino_model.xml": "OpenVINO",
    "*.mnn": "MNN",
}


def what_it_is(folder: Path) -> str | None:
    """Return what a folder without config.json or without weights is, and the remedy, as the end of a sentence.

    Args:
        folder: exists.

    Returns:
        A text such as "is empty. ..." that follows the folder's name, or None if the folder is nothing known.
    """
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "is empty, so it is not a checkpoint's folder. Name the folder that holds config.json and the weights."
    if "adapter_config.json" in names:
        return (
            "holds an adapter of PEFT (LoRA), not a model. Load its base model, then the adapter with "
            "peft.PeftModel.from_pretrained(model, FOLDER); or write both as one model (merge_and_unload, "
            "save_pretrained) and name that folder."
        )
    return _archive(folder, names) or _foreign(folder, names) or _training(names) or _inside(folder)


def _archive(folder: Path, names: list[str]) -> str | None:
    if any(folder.glob(_RANKS)):
        has_latest = (folder.parent / "latest").is_file()
        before = "" if has_latest else f"write the line {folder.name} into a file {folder.parent / 'latest'}, then "
        return (
            f"is one step of an archive of SwissArmyTransformer. Convert the archive above it once: {before}run "
            f"'python -m glm_model.conversion sat {folder.parent} DST', and load DST."
        )
    steps = sorted(path.parent.name for path in folder.glob(f"*/{_RANKS}"))
    if steps and "latest" not in names:
        return (
            f"is an archive of SwissArmyTransformer without its file 'latest'. Write the line {steps[-1]} into "
            f"{folder / 'latest'}, run 'python -m glm_model.conversion sat {folder} DST', and load DST."
        )
    return None


def _foreign(folder: Path, names: list[str]) -> str | None:
    for pattern, program in _FOREIGN_FILES.items():
        if found := next((path.name for path in sorted(folder.glob(pattern)) if path.is_file()), None):
            return _of_program(found, program)
    for path in (folder / name for name in names if name.endswith(".bin")):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) in _FOREIGN_MAGIC:
                    return _of_program(path.name, "chatglm.cpp or llama.cpp")
    return None


def _of_program(file: str, program: str) -> str:
    return (
        f"holds weights for {program} ({file}), which only that program reads. Name the folder of the checkpoint that "
        "they were made from."
    )


def _training(names: list[str]) -> str | None:
    if "zero_to_fp32.py" in names or any(name.startswith(("zero_pp_rank", "global_step")) for name in names):
        return (
            "holds the state of a training with DeepSpeed. Run its zero_to_fp32.py to get pytorch_model.bin, and put "
            "that beside the config.json and the tokenizer of the base model."
        )
    if any(name.endswith((".incomplete", ".crdownload", ".part", ".aria2")) for name in names):
        return "holds a download that has not finished. Start the download again."
    return None


def _inside(folder: Path) -> str | None:
    """Return where the checkpoint is if it is one or two folders further down, as in the cache of Hugging Face."""
    for pattern in ("*/config.json", "snapshots/*/config.json"):
        if found := sorted(folder.glob(pattern)):
            return f"is the folder above a checkpoint: name {found[-1].parent}."
    return None
