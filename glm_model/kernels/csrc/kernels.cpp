// What native.py calls, through a plain C interface.
#include <new>

#include "decoder.h"
#include "layout.h"
#include "product.h"

extern "C" {

const char* glm_instructions() { return kInstructions; }

// The ABI number, and the sizes and offsets of all structures that come in; see layout.h.
const char* glm_layout() {
    static const std::string text = layout();
    return text.c_str();
}

// Before the first product; without it one thread works.
void glm_use_threads_of(void* gomp_parallel) { parallel_region = reinterpret_cast<ParallelRegion>(gomp_parallel); }

// out = x @ (integers * scale).T + bias. 0, or 1 if there is not enough memory.
int glm_matmul(const void* x, int type, int64_t rows, int64_t columns, const void* weight, const void* scale,
               int scale_type, int64_t outputs, int bits, const void* bias, void* out, int quantize, int threads) {
    constexpr int64_t kSerialBytes = 96 * 1024;  // of weights times rows, below which waking threads costs more
    const Product product{x, static_cast<Type>(type), rows, columns, static_cast<const uint8_t*>(weight), scale,
                          static_cast<Type>(scale_type), outputs, bits, bias, out};
    try {
        Team team(outputs * product.row_bytes() * rows < kSerialBytes ? 1 : threads);
        team.lead([&] { multiply(product, quantize, team); });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// One new token of each sequence through all layers; `states` becomes what the last layer returns. 0, or 1 if there is
// not enough memory; the caches then hold garbage behind the cached tokens, the states are lost.
int glm_decode(const Decoder* decoder, const Step* step, float* states, int threads) {
    try {
        Team team(threads);
        team.lead([&] { decode(*decoder, *step, states, team); });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// The attention of one layer alone, for a model whose products torch computes: one new token of each sequence.
// query_key_value: [batch, heads, 3 * head_dim]; context: [batch, heads, head_dim]. 0, or 1 if there is not enough memory.
int glm_attend(const Heads* heads, const Step* step, int64_t layer, const float* query_key_value, float* context,
               int threads) {
    try {
        Team team(threads);
        std::vector<float> scratch(scratch_of(*heads, *step));
        team.lead([&] {
            attend_all(*heads, *step, step->caches + layer * step->batch, query_key_value, scratch, team, context);
        });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
}
