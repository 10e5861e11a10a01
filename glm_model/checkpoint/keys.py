"""Map published tensor names to those of this package; this module imports nothing of the package.

transformers applies the table when it loads (first entry to last) and its inverse when it saves (last to first), so
that a saved folder has the published names again. A tied head is not written: the published loader (transformers 4.27)
always uses the embedding for it. GLM-130B's archives use the same names.
"""

# The common prefix is an entry of its own and comes first: transformers inverts only the entries that a load has used,
# and a prefix encoder may be new while all other tensors came from a file.
RENAMED_KEYS: tuple[tuple[str, str], ...] = (
    (r"^transformer\.", r"^model\."),
    ("model.word_embeddings", "model.embed_tokens"),
    ("model.final_layernorm", "model.norm"),
    (".attention.query_key_value", ".self_attn.query_key_value"),
    (".attention.dense", ".self_attn.dense"),
)

# The same for the parts of a name, which may also be that of a module, as in a device map.
_PARTS = {
    "transformer": "model",
    "word_embeddings": "embed_tokens",
    "final_layernorm": "norm",
    "attention": "self_attn",
}

# Tensors that every published file holds and the original ignores: it computes the frequencies itself.
IGNORED_KEYS = r"rotary_emb\.inv_freq$"

# P-Tuning v2: the tensors that a base checkpoint may lack, and the start of their names in a file.
PREFIX_ENCODER = "transformer.prefix_encoder."


def own_name(name: str) -> str:
    """Return this package's name of a tensor or a module; ``name`` is its published name, or its own already."""
    return ".".join(_PARTS.get(part, part) for part in name.split("."))
