"""Run one model on several devices with torchrun: ranks share every layer, or hold some of the layers each, or both.

``world`` joins the processes. ``distribute`` cuts a model, as ``glm_model.model.split`` says, before its weights are
read, so that each rank reads only its own part. ``styles`` holds the tensor parallel styles that transformers lacks,
and ``pipeline`` turns a model into one stage. ``following`` makes the other ranks repeat the calls of rank 0, and
``watch`` ends the job when a rank dies.
"""
