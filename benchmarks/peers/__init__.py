"""This repository next to chatglm.cpp and fastllm, on a CPU, in 4 bits: ``python -m benchmarks.peers``."""
