// What Python has twins of, as text: structures.py writes the same text of its own, and a library whose text is another is
// not used. A field that is missing from a line below, or has no place in the structure, is an error of the compiler.
#pragma once
#include <string>

#include "decoder.h"

// To be raised when a function of kernels.cpp takes other arguments, or they mean something else.
constexpr int kAbi = 2;

inline void add_fields(std::string&, const char*, const char*) {}

// ", name offset+size" of each field. names: "a, b, c", as the macro below has them.
template <class Field, class... Fields>
void add_fields(std::string& text, const char* names, const char* start, const Field& field, const Fields&... others) {
    const std::string rest(names);
    const size_t comma = std::min(rest.find(','), rest.size());
    text += ' ' + rest.substr(0, comma) + ' ' + std::to_string(reinterpret_cast<const char*>(&field) - start) + '+' +
            std::to_string(sizeof(Field)) + (sizeof...(others) ? "," : "");
    names += std::min(comma + 2, rest.size());
    add_fields(text, names, start, others...);
}

// A line "Name size: name offset+size, ...". The binding names every field in order, or does not compile.
#define GLM_ADD_STRUCTURE(text, type, ...)                                                  \
    do {                                                                                    \
        const type whole{};                                                                 \
        const auto& [__VA_ARGS__] = whole;                                                  \
        text += "\n" #type " " + std::to_string(sizeof(type)) + ":";                        \
        add_fields(text, #__VA_ARGS__, reinterpret_cast<const char*>(&whole), __VA_ARGS__); \
    } while (false)

inline std::string layout() {
    std::string text = "abi " + std::to_string(kAbi);
    GLM_ADD_STRUCTURE(text, Linear, weight, scale, bias, outputs, columns, scale_type, bits);
    GLM_ADD_STRUCTURE(text, Norm, weight, bias);
    GLM_ADD_STRUCTURE(text, Layer, input_norm, output_norm, query_key_value, dense, up, down);
    GLM_ADD_STRUCTURE(text, Heads, heads, head_dim, position_rows);
    GLM_ADD_STRUCTURE(text, Decoder, layers, count, hidden, heads, alpha, epsilon, gated, quantize);
    GLM_ADD_STRUCTURE(text, KeysAndValues, keys, values, head_stride);
    GLM_ADD_STRUCTURE(text, Sequence, cached, visible);
    GLM_ADD_STRUCTURE(text, Step, batch, cos, sin, sequences, caches, type);
    return text;
}
