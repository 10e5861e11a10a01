"""INT8 and INT4 weights as in chatglm-6b-int8, -int4 and -int4-qe: read, made, written, multiplied."""
