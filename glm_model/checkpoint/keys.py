"""Map published tensor names to those of this package, as a table; this module imports nothing of the package.

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

# Tensors that every published file holds and the original ignores: it computes the frequencies itself.
IGNORED_KEYS = r"rotary_emb\.inv_freq$"

# P-Tuning v2: the tensors that a base checkpoint may lack, and the start of their names in a file.
PREFIX_ENCODER = "transformer.prefix_encoder."
