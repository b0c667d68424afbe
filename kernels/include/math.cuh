// Elementary functions in IEEE + - * / sqrt only: src/math.rs in the same form, so that every device draws the same bits.
// Needs -fmad=false.
//
// Source: fdlibm (k_sin.c, k_cos.c, e_log.c); Wichura, "Algorithm AS 241" (1988).
#pragma once

#include <cstdint>

// coefficients[0] + coefficients[1] * x + ... by Horner's rule.
template <int N> __device__ inline double polynomial(double x, const double (&coefficients)[N]) {
    double sum = 0.0;
#pragma unroll
    for (int k = N - 1; k >= 0; --k) sum = sum * x + coefficients[k];
    return sum;
}

struct SinCos {
    double sin, cos;
};

// |angle| <= 10^6 radians.
__device__ inline SinCos sin_cos(double angle) {
    // The high part of pi/2 has 33 significant bits: multiples up to 2^20 are exact.
    const double quarter_turns = rint(angle * 0.6366197723675814);
    const double r = (angle - quarter_turns * 1.5707963267341256) - quarter_turns * 6.077100506506192e-11;
    const double z = r * r;
    const double sin = r + r * z *
                               polynomial(z, {-1.6666666666666632e-1, 8.33333333332249e-3, -1.984126982985795e-4,
                                              2.7557313707070068e-6, -2.5050760253406863e-8, 1.58969099521155e-10});
    const double tail = polynomial(z, {4.16666666666666e-2, -1.388888888887411e-3, 2.480158728947673e-5, -2.7557314351390663e-7,
                                       2.087572321298175e-9, -1.1359647557788195e-11});
    const double cos = 1.0 - (0.5 * z - z * z * tail);
    switch (int64_t(quarter_turns) & 3) {
    case 0: return {sin, cos};
    case 1: return {cos, -sin};
    case 2: return {-sin, -cos};
    default: return {-cos, sin};
    }
}

// Natural logarithm of a positive normal number.
__device__ inline double ln(double x) {
    const int64_t bits = __double_as_longlong(x);
    int64_t exponent = (bits >> 52) - 1023;
    double mantissa = __longlong_as_double((bits & 0x000fffffffffffff) | 0x3ff0000000000000);
    if (mantissa > 1.4142135623730951) {
        mantissa *= 0.5;
        exponent += 1;
    }
    const double f = mantissa - 1.0;
    const double s = f / (2.0 + f);
    const double z = s * s;
    const double rest = z * polynomial(z, {6.666666666666735e-1, 3.999999999940942e-1, 2.857142874366239e-1,
                                           2.2222198432149784e-1, 1.818357216161805e-1, 1.5313837699209373e-1,
                                           1.4798198605116586e-1});
    const double half_square = 0.5 * f * f;
    const double k = double(exponent);
    return k * 0.6931471803691238 - ((half_square - (s * (half_square + rest) + k * 1.9082149292705877e-10)) - f);
}

// 32 random bits as a standard normal number: the normal quantile of (bits + 1/2) / 2^32.
__device__ inline float standard_normal(uint32_t bits) {
    const double p = (double(bits) + 0.5) / 4294967296.0;
    const double q = p - 0.5;
    if (fabs(q) <= 0.425) {
        const double r = 0.180625 - q * q;
        const double numerator =
            polynomial(r, {3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946, 45921.95393154987,
                           67265.7709270087, 33430.57558358813, 2509.0809287301227});
        const double denominator =
            polynomial(r, {1.0, 42.31333070160091, 687.1870074920579, 5394.196021424751, 21213.794301586597, 39307.89580009271,
                           28729.085735721943, 5226.495278852854});
        return float(q * numerator / denominator);
    }
    const double tail = q < 0.0 ? p : 1.0 - p;
    const double r = sqrt(-ln(tail)) - 1.6;
    const double numerator =
        polynomial(r, {1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045, 1.2704582524523684,
                       0.2417807251774506, 2.2723844989269184e-2, 7.745450142783414e-4});
    const double denominator =
        polynomial(r, {1.0, 2.053191626637759, 1.6763848301838038, 0.6897673349851, 0.14810397642748008,
                       1.5198666563616457e-2, 5.475938084995345e-4, 1.0507500716444169e-9});
    const double x = numerator / denominator;
    return float(q < 0.0 ? -x : x);
}
