"""Published tensor names and this package's, as a table. Imports nothing of ours.

Applied by transformers when it loads (first to last) and, turned round, when it saves (last to first), so that a folder
saved here has the published names again. A tied head is not written: the published loader (transformers 4.27) takes the
embedding for it, as it does anyway. GLM-130B's archives use the same names.
"""

# The prefix comes first and on its own: transformers turns round only the entries that a load has used, and a prefix
# encoder may be new while everything else came from a file.
RENAMED_KEYS: tuple[tuple[str, str], ...] = (
    (r"^transformer\.", r"^model\."),
    ("model.word_embeddings", "model.embed_tokens"),
    ("model.final_layernorm", "model.norm"),
    (".attention.query_key_value", ".self_attn.query_key_value"),
    (".attention.dense", ".self_attn.dense"),
)

# In every published file, ignored by the original: it computes the frequencies anew.
IGNORED_KEYS = r"rotary_emb\.inv_freq$"

# P-Tuning v2: the tensors that a base checkpoint may lack, and the start of their names in a file.
PREFIX_ENCODER = "transformer.prefix_encoder."
