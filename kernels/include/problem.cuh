// Problem structs, field by field those of src/problem.rs, passed by value.
#pragma once

#include <cstdint>

struct Conv2dProblem {
    uint32_t n, h, w, c;
    uint32_t k, r, s;
    uint32_t p, q;
    uint32_t pad_top, pad_bottom, pad_left, pad_right;
    uint32_t stride_h, stride_w;
    uint32_t dilation_h, dilation_w;
};

struct Pool2dProblem {
    uint32_t n, h, w, c;
    uint32_t r, s;
    uint32_t p, q;
    uint32_t pad_top, pad_bottom, pad_left, pad_right;
    uint32_t stride_h, stride_w;
};
