// Single precision: conversions, directed rounding, the library's functions.

// 12 results for each pair.
extern "C" __global__ void exact_f32(const float *a, const float *b, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    float *o = out + 12 * i;
    o[0] = __fadd_rn(a[i], b[i]);
    o[1] = __fmul_rn(a[i], b[i]);
    o[2] = __fdiv_rn(a[i], b[i]);
    o[3] = __fsqrt_rn(fabsf(a[i]));
    o[4] = __fmaf_rn(a[i], b[i], 1.5f);
    o[5] = __fadd_rd(a[i], b[i]);
    o[6] = __fadd_ru(a[i], b[i]);
    o[7] = __fmul_rz(a[i], b[i]);
    o[8] = __fmaf_ru(a[i], b[i], 1.5f);
    o[9] = __fmaf_rd(a[i], b[i], 1.5f);
    o[10] = __saturatef(a[i]);
    o[11] = fmaxf(a[i], b[i]);
}

__device__ float toward_zero(int value)
{
    float result;
    asm("cvt.rz.f32.s32 %0, %1;" : "=f"(result) : "r"(value));
    return result;
}

// 8 results for each value.
extern "C" __global__ void conversions(const float *x, int *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    int *o = out + 8 * i;
    o[0] = (int)x[i];
    o[1] = (int)(unsigned)fabsf(x[i]);
    o[2] = __float2int_rn(x[i]);
    o[3] = __float2int_ru(x[i]);
    o[4] = (signed char)(int)x[i];
    o[5] = (unsigned short)(int)x[i];
    o[6] = __float_as_int(toward_zero((int)((unsigned)(int)x[i] * 16777u)));
    o[7] = __float_as_int((float)(unsigned long long)(long long)x[i]);
}

// 8 results for each x, which is above 0.
extern "C" __global__ void functions_f32(const float *x, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    float *o = out + 8 * i;
    o[0] = expf(x[i] / 10);
    o[1] = logf(x[i]);
    o[2] = sinf(x[i]);
    o[3] = cosf(x[i] * 100000);
    o[4] = powf(x[i], 0.3f);
    o[5] = __expf(x[i] / 10);
    o[6] = rsqrtf(x[i]);
    o[7] = tanhf(x[i] / 10);
}
