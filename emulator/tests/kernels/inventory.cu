// One kernel per family of device functions of the CUDA headers, so that whatever nvcc emits for sm_80 is loaded and run.
// T is the thread, column k of `out` the k-th result.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <cooperative_groups.h>
#include <mma.h>
#include <cassert>
#include <cstdio>
#include <type_traits>

namespace cg = cooperative_groups;
#define T (blockIdx.x * blockDim.x + threadIdx.x)
#define OUT(k) out[(k) * gridDim.x * blockDim.x + T]

// Functions of one argument.
extern "C" __global__ void f32_unary(const float* x, float* out) {
    float v = x[T];
    int k = 0;
    OUT(k++) = sinf(v); OUT(k++) = cosf(v); OUT(k++) = tanf(v); OUT(k++) = asinf(v / 10.f); OUT(k++) = acosf(v / 10.f);
    OUT(k++) = atanf(v); OUT(k++) = sinhf(v); OUT(k++) = coshf(v); OUT(k++) = tanhf(v); OUT(k++) = asinhf(v);
    OUT(k++) = acoshf(fabsf(v) + 1.f); OUT(k++) = atanhf(v / 10.f); OUT(k++) = expf(v); OUT(k++) = exp2f(v);
    OUT(k++) = exp10f(v); OUT(k++) = expm1f(v); OUT(k++) = logf(fabsf(v)); OUT(k++) = log2f(fabsf(v));
    OUT(k++) = log10f(fabsf(v)); OUT(k++) = log1pf(fabsf(v)); OUT(k++) = sqrtf(fabsf(v)); OUT(k++) = rsqrtf(fabsf(v));
    OUT(k++) = cbrtf(v); OUT(k++) = rcbrtf(v); OUT(k++) = floorf(v); OUT(k++) = ceilf(v); OUT(k++) = truncf(v);
    OUT(k++) = rintf(v); OUT(k++) = roundf(v); OUT(k++) = nearbyintf(v); OUT(k++) = erff(v); OUT(k++) = erfcf(v);
    OUT(k++) = tgammaf(v); OUT(k++) = lgammaf(v); OUT(k++) = sinpif(v); OUT(k++) = cospif(v); OUT(k++) = logbf(v);
    OUT(k++) = normcdff(v); OUT(k++) = normcdfinvf(fabsf(v) / 20.f); OUT(k++) = erfinvf(v / 10.f);
    OUT(k++) = erfcinvf(fabsf(v) / 10.f); OUT(k++) = erfcxf(v); OUT(k++) = fabsf(v);
}

extern "C" __global__ void f32_binary(const float* x, const float* y, float* out) {
    float a = x[T], b = y[T];
    int k = 0, e;
    float s, c, whole;
    OUT(k++) = powf(fabsf(a), b); OUT(k++) = atan2f(a, b); OUT(k++) = fmodf(a, b); OUT(k++) = remainderf(a, b);
    OUT(k++) = hypotf(a, b); OUT(k++) = rhypotf(a, b); OUT(k++) = fdimf(a, b); OUT(k++) = fmaxf(a, b); OUT(k++) = fminf(a, b);
    OUT(k++) = copysignf(a, b); OUT(k++) = nextafterf(a, b); OUT(k++) = ldexpf(a, 5); OUT(k++) = scalbnf(a, -140);
    OUT(k++) = frexpf(a, &e) + e; OUT(k++) = modff(a, &whole) + whole; sincosf(a, &s, &c); OUT(k++) = s + c;
    sincospif(a, &s, &c); OUT(k++) = s + c; OUT(k++) = norm3df(a, b, 1.f); OUT(k++) = rnorm3df(a, b, 1.f);
    OUT(k++) = norm4df(a, b, 1.f, 2.f); OUT(k++) = rnorm4df(a, b, 1.f, 2.f); OUT(k++) = normf(2, x + T / 2);
    OUT(k++) = fmaf(a, b, 1.f); OUT(k++) = (float)ilogbf(a); OUT(k++) = remquof(a, b, &e) + e; OUT(k++) = (float)lrintf(a);
    OUT(k++) = (float)llrintf(a); OUT(k++) = (float)lroundf(a); OUT(k++) = (float)llroundf(a);
    OUT(k++) = (float)(isnan(a) + 2 * isinf(b) + 4 * isfinite(a) + 8 * signbit(b)); OUT(k++) = fdividef(a, b);
}

extern "C" __global__ void f32_intrinsics(const float* x, const float* y, float* out) {
    float a = x[T], b = y[T], p = fabsf(a);
    int k = 0;
    OUT(k++) = __fadd_rn(a, b); OUT(k++) = __fadd_rz(a, b); OUT(k++) = __fadd_ru(a, b); OUT(k++) = __fadd_rd(a, b);
    OUT(k++) = __fsub_rn(a, b); OUT(k++) = __fsub_rz(a, b); OUT(k++) = __fsub_ru(a, b); OUT(k++) = __fsub_rd(a, b);
    OUT(k++) = __fmul_rn(a, b); OUT(k++) = __fmul_rz(a, b); OUT(k++) = __fmul_ru(a, b); OUT(k++) = __fmul_rd(a, b);
    OUT(k++) = __fmaf_rn(a, b, 1.f); OUT(k++) = __fmaf_rz(a, b, 1.f); OUT(k++) = __fmaf_ru(a, b, 1.f);
    OUT(k++) = __fmaf_rd(a, b, 1.f); OUT(k++) = __fdiv_rn(a, b); OUT(k++) = __fdiv_rz(a, b); OUT(k++) = __fdiv_ru(a, b);
    OUT(k++) = __fdiv_rd(a, b); OUT(k++) = __frcp_rn(a); OUT(k++) = __frcp_rz(a); OUT(k++) = __frcp_ru(a);
    OUT(k++) = __frcp_rd(a); OUT(k++) = __fsqrt_rn(p); OUT(k++) = __fsqrt_rz(p); OUT(k++) = __fsqrt_ru(p);
    OUT(k++) = __fsqrt_rd(p); OUT(k++) = __frsqrt_rn(p); OUT(k++) = __fdividef(a, b); OUT(k++) = __sinf(a);
    OUT(k++) = __cosf(a); OUT(k++) = __tanf(a); OUT(k++) = __expf(a); OUT(k++) = __exp10f(a); OUT(k++) = __logf(p);
    OUT(k++) = __log2f(p); OUT(k++) = __log10f(p); OUT(k++) = __powf(p, b); OUT(k++) = __saturatef(a);
    OUT(k++) = __tanhf(a); OUT(k++) = __fmaf_ieee_rn(a, b, 1.f); OUT(k++) = __fmaf_ieee_rz(a, b, 1.f);
}

extern "C" __global__ void f64_unary(const double* x, double* out) {
    double v = x[T];
    int k = 0;
    OUT(k++) = sin(v); OUT(k++) = cos(v); OUT(k++) = tan(v); OUT(k++) = asin(v / 10); OUT(k++) = acos(v / 10);
    OUT(k++) = atan(v); OUT(k++) = sinh(v); OUT(k++) = cosh(v); OUT(k++) = tanh(v); OUT(k++) = asinh(v);
    OUT(k++) = acosh(fabs(v) + 1); OUT(k++) = atanh(v / 10); OUT(k++) = exp(v); OUT(k++) = exp2(v); OUT(k++) = exp10(v);
    OUT(k++) = expm1(v); OUT(k++) = log(fabs(v)); OUT(k++) = log2(fabs(v)); OUT(k++) = log10(fabs(v));
    OUT(k++) = log1p(fabs(v)); OUT(k++) = sqrt(fabs(v)); OUT(k++) = rsqrt(fabs(v)); OUT(k++) = cbrt(v); OUT(k++) = rcbrt(v);
    OUT(k++) = floor(v); OUT(k++) = ceil(v); OUT(k++) = trunc(v); OUT(k++) = rint(v); OUT(k++) = round(v);
    OUT(k++) = nearbyint(v); OUT(k++) = erf(v); OUT(k++) = erfc(v); OUT(k++) = tgamma(v); OUT(k++) = lgamma(v);
    OUT(k++) = sinpi(v); OUT(k++) = cospi(v); OUT(k++) = logb(v); OUT(k++) = normcdf(v); OUT(k++) = normcdfinv(fabs(v) / 20);
    OUT(k++) = erfinv(v / 10); OUT(k++) = erfcinv(fabs(v) / 10); OUT(k++) = erfcx(v);
    OUT(k++) = fabs(v);
}

extern "C" __global__ void f64_binary(const double* x, const double* y, double* out) {
    double a = x[T], b = y[T], s, c;
    int k = 0, e;
    OUT(k++) = pow(fabs(a), b); OUT(k++) = atan2(a, b); OUT(k++) = fmod(a, b); OUT(k++) = remainder(a, b); OUT(k++) = hypot(a, b);
    OUT(k++) = rhypot(a, b); OUT(k++) = fdim(a, b); OUT(k++) = fmax(a, b); OUT(k++) = fmin(a, b); OUT(k++) = copysign(a, b);
    OUT(k++) = nextafter(a, b); OUT(k++) = ldexp(a, 5); OUT(k++) = frexp(a, &e) + e; sincos(a, &s, &c); OUT(k++) = s + c;
    sincospi(a, &s, &c); OUT(k++) = s + c; OUT(k++) = norm3d(a, b, 1.0); OUT(k++) = rnorm4d(a, b, 1.0, 2.0);
    OUT(k++) = a / b; OUT(k++) = fma(a, b, 1.0);
    OUT(k++) = __dadd_rn(a, b); OUT(k++) = __dadd_rz(a, b); OUT(k++) = __dadd_ru(a, b); OUT(k++) = __dadd_rd(a, b);
    OUT(k++) = __dmul_rz(a, b); OUT(k++) = __dmul_ru(a, b); OUT(k++) = __fma_rz(a, b, 1.0); OUT(k++) = __fma_rd(a, b, 1.0);
    OUT(k++) = __ddiv_rn(a, b); OUT(k++) = __ddiv_rz(a, b); OUT(k++) = __ddiv_ru(a, b); OUT(k++) = __ddiv_rd(a, b);
    OUT(k++) = __drcp_rn(a); OUT(k++) = __drcp_ru(a); OUT(k++) = __dsqrt_rn(fabs(a)); OUT(k++) = __dsqrt_rd(fabs(a));
    OUT(k++) = (double)llrint(a); OUT(k++) = (double)lround(a); OUT(k++) = (double)ilogb(a);
}

extern "C" __global__ void conversions(const float* x, const double* y, const long long* z, long long* out) {
    float a = x[T];
    double d = y[T];
    long long n = z[T];
    int k = 0;
    OUT(k++) = __float2int_rn(a); OUT(k++) = __float2int_rz(a); OUT(k++) = __float2int_ru(a); OUT(k++) = __float2int_rd(a);
    OUT(k++) = __float2uint_rn(a); OUT(k++) = __float2uint_rz(a); OUT(k++) = __float2uint_ru(a); OUT(k++) = __float2uint_rd(a);
    OUT(k++) = __float2ll_rn(a); OUT(k++) = __float2ll_rz(a); OUT(k++) = __float2ll_ru(a); OUT(k++) = __float2ll_rd(a);
    OUT(k++) = __float2ull_rn(a); OUT(k++) = __float2ull_rz(a); OUT(k++) = __float2ull_ru(a); OUT(k++) = __float2ull_rd(a);
    OUT(k++) = __double2int_rn(d); OUT(k++) = __double2int_rz(d); OUT(k++) = __double2int_ru(d); OUT(k++) = __double2int_rd(d);
    OUT(k++) = __double2uint_rn(d); OUT(k++) = __double2uint_rz(d); OUT(k++) = __double2ll_rn(d); OUT(k++) = __double2ll_rz(d);
    OUT(k++) = __double2ull_rn(d); OUT(k++) = __double2ull_rd(d); OUT(k++) = __double2hiint(d); OUT(k++) = __double2loint(d);
    OUT(k++) = __float_as_int(__double2float_rn(d)); OUT(k++) = __float_as_int(__double2float_rz(d));
    OUT(k++) = __float_as_int(__double2float_ru(d)); OUT(k++) = __float_as_int(__double2float_rd(d));
    OUT(k++) = __float_as_int(__int2float_rn((int)n)); OUT(k++) = __float_as_int(__int2float_rz((int)n));
    OUT(k++) = __float_as_int(__int2float_ru((int)n)); OUT(k++) = __float_as_int(__int2float_rd((int)n));
    OUT(k++) = __float_as_int(__uint2float_rn((unsigned)n)); OUT(k++) = __float_as_int(__uint2float_rz((unsigned)n));
    OUT(k++) = __float_as_int(__ll2float_rn(n)); OUT(k++) = __float_as_int(__ll2float_rz(n));
    OUT(k++) = __float_as_int(__ull2float_rn(n)); OUT(k++) = __float_as_int(__ull2float_ru(n));
    OUT(k++) = __double_as_longlong(__int2double_rn((int)n)); OUT(k++) = __double_as_longlong(__ll2double_rn(n));
    OUT(k++) = __double_as_longlong(__ll2double_rz(n)); OUT(k++) = __double_as_longlong(__ull2double_ru(n));
    OUT(k++) = __double_as_longlong(__hiloint2double((int)n, 7)); OUT(k++) = (signed char)n; OUT(k++) = (unsigned char)n;
    OUT(k++) = (short)n; OUT(k++) = (unsigned short)a; OUT(k++) = (char)a; OUT(k++) = (long long)(unsigned char)d;
}

extern "C" __global__ void integers(const unsigned* x, const unsigned* y, unsigned* out) {
    unsigned a = x[T], b = y[T];
    int k = 0;
    OUT(k++) = __brev(a); OUT(k++) = __clz(a); OUT(k++) = __ffs(a); OUT(k++) = __popc(a); OUT(k++) = __byte_perm(a, b, 0x7531);
    OUT(k++) = __funnelshift_l(a, b, a); OUT(k++) = __funnelshift_lc(a, b, b); OUT(k++) = __funnelshift_r(a, b, a);
    OUT(k++) = __funnelshift_rc(a, b, b); OUT(k++) = __mulhi((int)a, (int)b); OUT(k++) = __umulhi(a, b);
    OUT(k++) = __mul24((int)a, (int)b); OUT(k++) = __umul24(a, b); OUT(k++) = __sad((int)a, (int)b, 3u); OUT(k++) = __usad(a, b, 3u);
    OUT(k++) = __hadd((int)a, (int)b); OUT(k++) = __rhadd((int)a, (int)b); OUT(k++) = __uhadd(a, b); OUT(k++) = __urhadd(a, b);
    OUT(k++) = __dp4a((int)a, (int)b, 5); OUT(k++) = __dp4a(a, b, 5u); OUT(k++) = __dp2a_lo((int)a, (int)b, 5);
    OUT(k++) = __dp2a_hi(a, b, 5u); OUT(k++) = __fns(a, b & 31, 2); OUT(k++) = a / (b | 1); OUT(k++) = a % (b | 1);
    OUT(k++) = (int)a / (int)(b | 1); OUT(k++) = (int)a % (int)(b | 1); OUT(k++) = max(a, b); OUT(k++) = min((int)a, (int)b);
    OUT(k++) = abs((int)a); OUT(k++) = (a << (b & 31)) | (a >> (32 - (b & 31))); OUT(k++) = (unsigned)((int)a >> (b & 31));
    OUT(k++) = __vabs2(a); OUT(k++) = __vabs4(a); OUT(k++) = __vabsdiffs2(a, b); OUT(k++) = __vabsdiffs4(a, b);
    OUT(k++) = __vabsdiffu2(a, b); OUT(k++) = __vabsdiffu4(a, b); OUT(k++) = __vabsss2(a); OUT(k++) = __vabsss4(a);
    OUT(k++) = __vadd2(a, b); OUT(k++) = __vadd4(a, b); OUT(k++) = __vaddss2(a, b); OUT(k++) = __vaddss4(a, b);
    OUT(k++) = __vaddus2(a, b); OUT(k++) = __vaddus4(a, b); OUT(k++) = __vavgs2(a, b); OUT(k++) = __vavgs4(a, b);
    OUT(k++) = __vavgu2(a, b); OUT(k++) = __vavgu4(a, b); OUT(k++) = __vcmpeq2(a, b); OUT(k++) = __vcmpeq4(a, b);
    OUT(k++) = __vcmpges2(a, b); OUT(k++) = __vcmpges4(a, b); OUT(k++) = __vcmpgtu4(a, b); OUT(k++) = __vcmpleu2(a, b);
    OUT(k++) = __vhaddu4(a, b); OUT(k++) = __vmaxs2(a, b); OUT(k++) = __vmaxs4(a, b); OUT(k++) = __vmaxu2(a, b);
    OUT(k++) = __vmaxu4(a, b); OUT(k++) = __vmins4(a, b); OUT(k++) = __vminu2(a, b); OUT(k++) = __vneg2(a); OUT(k++) = __vnegss4(a);
    OUT(k++) = __vsads2(a, b); OUT(k++) = __vsads4(a, b); OUT(k++) = __vsadu2(a, b); OUT(k++) = __vsadu4(a, b);
    OUT(k++) = __vseteq2(a, b); OUT(k++) = __vsetges4(a, b); OUT(k++) = __vsub2(a, b); OUT(k++) = __vsub4(a, b);
    OUT(k++) = __vsubss2(a, b); OUT(k++) = __vsubus4(a, b); OUT(k++) = __viaddmax_s32((int)a, (int)b, 3);
    OUT(k++) = __viaddmax_s16x2(a, b, 3u); OUT(k++) = __vimax3_s32((int)a, (int)b, 3); OUT(k++) = __vimin_s32_relu((int)a, (int)b);
    OUT(k++) = __vimax_s16x2_relu(a, b); OUT(k++) = __vimin3_u16x2(a, b, 77u);
    bool hi, lo;
    unsigned m = __vibmax_s16x2(a, b, &hi, &lo);
    OUT(k++) = m + hi + 2 * lo;
}

extern "C" __global__ void wide_integers(const unsigned long long* x, const unsigned long long* y, unsigned long long* out) {
    unsigned long long a = x[T], b = y[T];
    int k = 0;
    OUT(k++) = __brevll(a); OUT(k++) = __clzll(a); OUT(k++) = __ffsll(a); OUT(k++) = __popcll(a);
    OUT(k++) = __umul64hi(a, b); OUT(k++) = __mul64hi((long long)a, (long long)b);
    OUT(k++) = a / (b | 1); OUT(k++) = a % (b | 1); OUT(k++) = (long long)a / (long long)(b | 1);
    OUT(k++) = (long long)a % (long long)(b | 1);
    unsigned __int128 m = (unsigned __int128)a * b + a, q = m / (((unsigned __int128)b << 7) | 1), s = m << (a & 127);
    OUT(k++) = (unsigned long long)m; OUT(k++) = (unsigned long long)(m >> 64); OUT(k++) = (unsigned long long)q;
    OUT(k++) = (unsigned long long)(q >> 64); OUT(k++) = (unsigned long long)s; OUT(k++) = (unsigned long long)(s >> 64);
    __int128 t = (__int128)(long long)a * (long long)b;
    OUT(k++) = (unsigned long long)(t % ((__int128)(long long)(b | 1))); OUT(k++) = (unsigned long long)(t >> 70);
    OUT(k++) = (unsigned long long)(m > (unsigned __int128)b << 50);
    OUT(k++) = max(a, b); OUT(k++) = min((long long)a, (long long)b); OUT(k++) = llabs((long long)a);
}

template <class H, class H2> __device__ void halves(H a, H b, H2 c, H2 d, float* out) {
    int k = 0;
    auto put = [&](H v) { OUT(k++) = (float)v; };
    auto put2 = [&](H2 v) { OUT(k++) = (float)v.x; OUT(k++) = (float)v.y; };
    put(__hadd(a, b)); put(__hsub(a, b)); put(__hmul(a, b)); put(__hdiv(a, b)); put(__hfma(a, b, a)); put(__hneg(a));
    put(__habs(a)); put(__hadd_sat(a, b)); put(__hsub_sat(a, b)); put(__hmul_sat(a, b)); put(__hfma_sat(a, b, a));
    put(__hfma_relu(a, b, a)); put(__hmax(a, b)); put(__hmin(a, b)); put(__hmax_nan(a, b)); put(__hmin_nan(a, b));
    put(__hadd_rn(a, b)); put(__hsub_rn(a, b)); put(__hmul_rn(a, b));
    put(hsqrt(__habs(a))); put(hrsqrt(__habs(a))); put(hrcp(a)); put(hlog(__habs(a))); put(hlog2(__habs(a)));
    put(hlog10(__habs(a))); put(hexp(a)); put(hexp2(a)); put(hexp10(a)); put(hcos(a)); put(hsin(a)); put(htanh(a));
    put(htanh_approx(a)); put(hceil(a)); put(hfloor(a)); put(hrint(a)); put(htrunc(a));
    put2(__hadd2(c, d)); put2(__hsub2(c, d)); put2(__hmul2(c, d)); put2(__h2div(c, d)); put2(__hfma2(c, d, c));
    put2(__hneg2(c)); put2(__habs2(c)); put2(__hadd2_sat(c, d)); put2(__hmul2_sat(c, d)); put2(__hfma2_sat(c, d, c));
    put2(__hfma2_relu(c, d, c)); put2(__hmax2(c, d)); put2(__hmin2(c, d)); put2(__hmax2_nan(c, d)); put2(__hmin2_nan(c, d));
    put2(__hcmadd(c, d, c)); put2(h2exp2(c)); put2(h2tanh(c)); put2(h2tanh_approx(c)); put2(h2sqrt(__habs2(c))); put2(h2rcp(c));
    put2(h2floor(c)); put2(h2rint(c)); put2(h2sin(c)); put2(h2log(__habs2(c)));
    put2(__heq2(c, d)); put2(__hne2(c, d)); put2(__hlt2(c, d)); put2(__hle2(c, d)); put2(__hgt2(c, d)); put2(__hge2(c, d));
    put2(__hequ2(c, d)); put2(__hltu2(c, d)); put2(__hisnan2(c));
    OUT(k++) = __heq(a, b); OUT(k++) = __hne(a, b); OUT(k++) = __hlt(a, b); OUT(k++) = __hgeu(a, b); OUT(k++) = __hisnan(a);
    OUT(k++) = __hisinf(a); OUT(k++) = __hbeq2(c, d); OUT(k++) = __hblt2(c, d); OUT(k++) = __hbgtu2(c, d);
    OUT(k++) = __heq2_mask(c, d); OUT(k++) = __hltu2_mask(c, d) >> 16; OUT(k++) = __hgt2_mask(c, d) & 3;
    put2(__lowhigh2highlow(c)); put2(__lows2half2_or(c, d)); put2(__shfl_xor_sync(~0u, c, 1)); put(__shfl_down_sync(~0u, a, 1));
}
__device__ __half2 __lows2half2_or(__half2 a, __half2 b) { return __lows2half2(a, b); }
__device__ __nv_bfloat162 __lows2half2_or(__nv_bfloat162 a, __nv_bfloat162 b) { return __lows2bfloat162(a, b); }

extern "C" __global__ void f16_functions(const __half* x, const __half* y, float* out) {
    __half a = x[T], b = y[T];
    halves(a, b, __halves2half2(a, b), __halves2half2(b, a), out);
}
extern "C" __global__ void bf16_functions(const __nv_bfloat16* x, const __nv_bfloat16* y, float* out) {
    __nv_bfloat16 a = x[T], b = y[T];
    halves(a, b, __halves2bfloat162(a, b), __halves2bfloat162(b, a), out);
}

extern "C" __global__ void half_conversions(const float* x, const int* n, const __half* h, const __nv_bfloat16* g, long long* out) {
    float a = x[T];
    int i = n[T];
    __half v = h[T];
    __nv_bfloat16 w = g[T];
    int k = 0;
    OUT(k++) = __half_as_ushort(__float2half_rn(a)); OUT(k++) = __half_as_ushort(__float2half_rz(a));
    OUT(k++) = __half_as_ushort(__float2half_ru(a)); OUT(k++) = __half_as_ushort(__float2half_rd(a));
    OUT(k++) = __half_as_ushort(__double2half(a)); OUT(k++) = __half_as_ushort(__int2half_rn(i));
    OUT(k++) = __half_as_ushort(__int2half_rz(i)); OUT(k++) = __half_as_ushort(__int2half_ru(i));
    OUT(k++) = __half_as_ushort(__uint2half_rn(i)); OUT(k++) = __half_as_ushort(__short2half_rn(i));
    OUT(k++) = __half_as_ushort(__ushort2half_rd(i)); OUT(k++) = __half_as_ushort(__ll2half_rn(i));
    OUT(k++) = __half_as_ushort(__ull2half_rz(i)); OUT(k++) = __half2int_rn(v); OUT(k++) = __half2int_rz(v);
    OUT(k++) = __half2int_ru(v); OUT(k++) = __half2int_rd(v); OUT(k++) = __half2uint_rn(v); OUT(k++) = __half2short_rz(v);
    OUT(k++) = __half2ushort_rn(v); OUT(k++) = __half2ll_rd(v); OUT(k++) = __half2ull_rz(v); OUT(k++) = __half2char_rz(v);
    OUT(k++) = __half2uchar_rz(v); OUT(k++) = __float_as_int(__half2float(v));
    OUT(k++) = __bfloat16_as_ushort(__float2bfloat16_rn(a)); OUT(k++) = __bfloat16_as_ushort(__float2bfloat16_rz(a));
    OUT(k++) = __bfloat16_as_ushort(__float2bfloat16_ru(a)); OUT(k++) = __bfloat16_as_ushort(__float2bfloat16_rd(a));
    OUT(k++) = __bfloat16_as_ushort(__double2bfloat16(a)); OUT(k++) = __bfloat16_as_ushort(__int2bfloat16_rn(i));
    OUT(k++) = __bfloat16_as_ushort(__uint2bfloat16_ru(i)); OUT(k++) = __bfloat16_as_ushort(__ll2bfloat16_rn(i));
    OUT(k++) = __bfloat162int_rn(w); OUT(k++) = __bfloat162uint_rz(w); OUT(k++) = __bfloat162ll_rd(w);
    OUT(k++) = __bfloat162short_rz(w); OUT(k++) = __float_as_int(__bfloat162float(w));
    __half2 p = __float22half2_rn(make_float2(a, -a));
    __nv_bfloat162 q = __float22bfloat162_rn(make_float2(a, -a));
    OUT(k++) = *(unsigned*)&p; OUT(k++) = *(unsigned*)&q;
}

extern "C" __global__ void atomics(unsigned* u, int* s, unsigned long long* w, float* f, double* d, __half* h, __half2* h2,
                                   __nv_bfloat16* b, __nv_bfloat162* b2, unsigned short* us) {
    __shared__ unsigned su;
    __shared__ float sf;
    __shared__ unsigned long long sw;
    __shared__ double sd;
    if (threadIdx.x == 0) su = 0, sf = 0, sw = 0, sd = 0;
    __syncthreads();
    unsigned t = T;
    atomicAdd(u, t); atomicSub(u + 1, 1u); atomicExch(u + 2, t); atomicMin(u + 3, t); atomicMax(u + 4, t); atomicInc(u + 5, 9u);
    atomicDec(u + 6, 9u); atomicCAS(u + 7, 0u, t + 1); atomicAnd(u + 8, ~(1u << (t & 31))); atomicOr(u + 9, 1u << (t & 31));
    atomicXor(u + 10, t); atomicAdd(s, -(int)t); atomicMin(s + 1, -(int)t); atomicMax(s + 2, (int)t); atomicExch(s + 3, 4);
    atomicAdd(w, (unsigned long long)t << 20); atomicMin(w + 1, (unsigned long long)t); atomicMax(w + 2, (unsigned long long)t);
    atomicCAS(w + 3, 0ull, t + 1ull); atomicExch(w + 4, 5ull); atomicAnd(w + 5, 3ull); atomicOr(w + 6, 1ull << (t & 63));
    atomicXor(w + 7, (unsigned long long)t); atomicMin((long long*)w + 8, -(long long)t); atomicMax((long long*)w + 9, (long long)t);
    atomicAdd(f, 0.5f); atomicExch(f + 1, 3.f); atomicAdd(d, 0.25); atomicAdd(h, __float2half(1.f));
    atomicAdd(h2, __floats2half2_rn(1.f, 2.f)); atomicAdd(b, __float2bfloat16(1.f)); atomicAdd(b2, __floats2bfloat162_rn(1.f, 2.f));
    atomicCAS(us, (unsigned short)0, (unsigned short)7);
    atomicAdd_system(u + 12, 1u); atomicCAS_system(u + 14, 0u, 1u);
    // Within a block only: each block has words of its own.
    atomicAdd_block(u + 18 + 2 * blockIdx.x, 1u); atomicMax_block(u + 19 + 2 * blockIdx.x, t);
    atomicAdd(&su, 1u); atomicAdd(&sf, 1.f); atomicMax(&sw, (unsigned long long)t); atomicAdd(&sd, 1.0); atomicCAS(&sw, 1ull, 2ull);
    unsigned old = atomicInc(&su, 1000u);
    __syncthreads();
    if (threadIdx.x == 0) u[15 + blockIdx.x] = su + (unsigned)sf + (unsigned)sd + (old > 4000u);
}

extern "C" __global__ void warp_functions(const int* x, int* out) {
    int v = x[T], k = 0, pred;
    unsigned all = 0xffffffffu;
    OUT(k++) = __shfl_sync(all, v, 5); OUT(k++) = __shfl_up_sync(all, v, 2); OUT(k++) = __shfl_down_sync(all, v, 3, 16);
    OUT(k++) = __shfl_xor_sync(all, v, 7, 8); OUT(k++) = __all_sync(all, v > 0); OUT(k++) = __any_sync(all, v > 100);
    OUT(k++) = __ballot_sync(all, v & 1); OUT(k++) = __match_any_sync(all, v & 3); OUT(k++) = __match_all_sync(all, 3, &pred) + pred;
    OUT(k++) = __match_any_sync(all, (unsigned long long)(v & 1)) & 255; OUT(k++) = __reduce_add_sync(all, v);
    OUT(k++) = __reduce_min_sync(all, v); OUT(k++) = __reduce_max_sync(all, (unsigned)v); OUT(k++) = __reduce_and_sync(all, v);
    OUT(k++) = __reduce_or_sync(all, v); OUT(k++) = __reduce_xor_sync(all, v); OUT(k++) = __activemask();
    OUT(k++) = (int)__shfl_xor_sync(all, (long long)v, 1); OUT(k++) = (int)__shfl_xor_sync(all, (double)v, 1);
    OUT(k++) = (int)__shfl_xor_sync(all, (float)v, 1);
    if (threadIdx.x % 32 < 16) {
        OUT(k) = __ballot_sync(0xffffu, v & 1);
        __syncwarp(0xffffu);
    } else {
        OUT(k) = 0;
    }
    __syncwarp();
    OUT(k + 1) = __syncthreads_count(v & 1); OUT(k + 2) = __syncthreads_and(v > -1000); OUT(k + 3) = __syncthreads_or(v > 1000);
    __threadfence_block(); __threadfence(); __threadfence_system();
    __nanosleep(10);
}

extern "C" __global__ void memory_functions(const float4* x, const unsigned char* y, float4* out, int* extra) {
    __shared__ float4 tile[256];
    __shared__ int flags[8];
    unsigned t = threadIdx.x;
    __pipeline_memcpy_async(&tile[t], &x[T], 16);
    __pipeline_commit();
    if (t < 8) __pipeline_memcpy_async((char*)flags + 4 * t, y + 4 * t, 4);
    __pipeline_commit();
    __pipeline_wait_prior(1);
    float4 v = tile[t];
    __pipeline_wait_prior(0);
    __syncthreads();
    float4 a = __ldg(&x[T]), b = __ldcs(&x[T]), c = __ldcg(&x[T]), d = __ldca(&x[T]), e = __ldlu(&x[T]), g = __ldcv(&x[T]);
    v.x += a.x + b.x + c.y + d.z + e.w + g.x + flags[t & 7];
    __stcs(&out[T], v);
    __stwt(&extra[T], (int)__ldg(y + T) + (int)__isGlobal(x) + 2 * __isShared(tile) + 4 * __isConstant(x) + 8 * __isLocal(&v));
    void* raw = &tile[t ^ 1];
    extra[T] += ((size_t)__cvta_generic_to_shared(raw) & 16) / 16;
    volatile int* vol = extra;
    vol[T] = vol[T] + 1;
    extra[T] += (int)(clock64() >= 0) + (int)(clock() != 0 || true);
}

extern "C" __global__ void groups(const int* x, int* out) {
    cg::grid_group grid = cg::this_grid();
    cg::thread_block block = cg::this_thread_block();
    auto tile = cg::tiled_partition<8>(block);
    auto warp = cg::tiled_partition<32>(block);
    int v = x[grid.thread_rank()];
    int sum = 0;
    for (int i = tile.size() / 2; i > 0; i /= 2) v += tile.shfl_down(v, i);
    if (tile.thread_rank() == 0) sum = v;
    auto active = cg::coalesced_threads();
    sum += active.size() + warp.meta_group_rank() + tile.any(v > 0) + tile.ballot(v & 1) + active.shfl(v, 0);
    auto pair = cg::binary_partition(tile, v & 1);
    sum += pair.size();
    auto label = cg::labeled_partition(warp, v & 3);
    sum += label.size();
    out[grid.thread_rank()] = sum;
    block.sync();
    tile.sync();
    grid.sync();
    out[grid.size() + grid.thread_rank()] = out[(grid.thread_rank() + block.size()) % grid.size()];
}

// Fragments in C++: twice A·B + C, stored transposed.
template <class E, class LA, class LB, class Acc, int M, int N, int K>
__device__ void twice_product(const E* a, const E* b, const Acc* c, Acc* d) {
    using namespace nvcuda;
    wmma::fragment<wmma::matrix_a, M, N, K, E, LA> fa;
    wmma::fragment<wmma::matrix_b, M, N, K, E, LB> fb;
    wmma::fragment<wmma::accumulator, M, N, K, Acc> fc;
    wmma::load_matrix_sync(fa, a, std::is_same<LA, wmma::row_major>::value ? K : M);
    wmma::load_matrix_sync(fb, b, std::is_same<LB, wmma::row_major>::value ? N : K);
    wmma::load_matrix_sync(fc, c, N, wmma::mem_row_major);
    wmma::mma_sync(fc, fa, fb, fc);
    for (int i = 0; i < fc.num_elements; i++) fc.x[i] = fc.x[i] + fc.x[i];
    wmma::store_matrix_sync(d, fc, M, wmma::mem_col_major);
}
#define WMMA(name, E, LA, LB, Acc, M, N, K)                                                       \
    extern "C" __global__ void name(const E* a, const E* b, const Acc* c, Acc* d) {               \
        twice_product<E, nvcuda::wmma::LA, nvcuda::wmma::LB, Acc, M, N, K>(a, b, c, d);           \
    }
WMMA(wmma_f16, __half, row_major, col_major, float, 16, 16, 16)
WMMA(wmma_f16_half, __half, col_major, row_major, __half, 32, 8, 16)
WMMA(wmma_bf16, __nv_bfloat16, row_major, row_major, float, 8, 32, 16)
WMMA(wmma_s8, signed char, row_major, col_major, int, 16, 16, 16)
WMMA(wmma_u8, unsigned char, col_major, row_major, int, 8, 32, 16)
WMMA(wmma_f64, double, row_major, col_major, double, 8, 8, 4)

// Calls through pointers and virtual functions.
typedef float (*Function)(float);
__device__ __noinline__ float add_one(float x) { return x + 1; }
__device__ __noinline__ float square(float x) { return x * x; }
__device__ Function table[2] = {add_one, square};
struct Shape {
    float k;
    __device__ virtual float area(float x) { return x; }
};
struct Sum : Shape {
    __device__ float area(float x) override { return x + k; }
};
struct Product : Shape {
    __device__ float area(float x) override { return x * k; }
};
extern "C" __global__ void pointers(const int* which, float* out) {
    int w = which[T] & 1;
    Sum a;
    Product b;
    a.k = 3;
    b.k = 5;
    Shape* p = w ? (Shape*)&a : (Shape*)&b;
    OUT(0) = table[w]((float)T);
    OUT(1) = p->area(2.f);
}

struct Block16 {
    int v[16];
};
// A parameter that is indexed and whose address is taken.
__device__ __noinline__ int pick(const int* p, int i) { return p[i]; }
extern "C" __global__ void parameters(const __grid_constant__ Block16 block, int* out) { OUT(0) = pick(block.v, T & 15); }

extern "C" __global__ void local_memory(const int* x, int* out) {
    int bins[16] = {};
    for (int i = 0; i < 8; i++) bins[(x[T] + i * i) & 15] += i;
    int sum = 0;
    for (int i = 0; i < 16; i++) sum = 3 * sum + bins[i];
    switch (x[T] & 7) {
        case 0: sum += 5; break;
        case 1: sum *= 7; break;
        case 2: sum -= 9; break;
        case 3: sum ^= 11; break;
        case 4: sum /= 3; break;
        case 5: sum %= 1000; break;
        default: printf("%d %s %.2f\n", sum, "other", 0.5);
    }
    assert(sum != 123456789);
    OUT(0) = sum;
}
