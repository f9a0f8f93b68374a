// Integers: division, wide products, bits, narrow types.

// 12 results for each pair; b is not 0.
extern "C" __global__ void integers_64(const long long *a, const long long *b, long long *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    long long x = a[i], y = b[i];
    unsigned long long ux = x, uy = y;
    long long *o = out + 12 * i;
    o[0] = x / y;
    o[1] = x % y;
    o[2] = ux / uy;
    o[3] = ux % uy;
    o[4] = __mul64hi(x, y);
    o[5] = __umul64hi(ux, uy);
    o[6] = x >> (y & 63);
    o[7] = ux >> (y & 63) | ux << (64 - (y & 63)) % 64;
    o[8] = __popcll(ux) + 100 * __clzll(x) + 10000 * __ffsll(x);
    o[9] = __brevll(ux);
    o[10] = x > y ? x - y : y - x;
    o[11] = (x < y) + 2 * (ux < uy) + 4 * (x == y);
}

// 14 results for each pair; b is not 0.
extern "C" __global__ void integers_32(const int *a, const int *b, int *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    int x = a[i], y = b[i];
    unsigned ux = x, uy = y;
    int *o = out + 14 * i;
    o[0] = x / y;
    o[1] = x % y;
    o[2] = ux / uy;
    o[3] = ux % uy;
    o[4] = __mulhi(x, y);
    o[5] = __umulhi(ux, uy);
    o[6] = __byte_perm(ux, uy, 0x6240);
    o[7] = __funnelshift_l(ux, uy, y & 31);
    o[8] = __popc(ux) + 100 * __clz(x) + 10000 * __ffs(x);
    o[9] = __brev(ux);
    o[10] = __sad(x, y, 5u);
    o[11] = abs(x) / 7 + ux % 10;
    o[12] = (ux >> 5 & 0x7ff) | (uy & 0x1f) << 20;
    o[13] = min(x, y) ^ max(ux, uy);
}

// Saturation, and carries through narrow types.
extern "C" __global__ void narrow(const signed char *a, const unsigned short *b, short *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    short product = a[i] * (short)b[i];
    unsigned char low = a[i] + b[i];
    out[3 * i] = product;
    out[3 * i + 1] = low;
    out[3 * i + 2] = (signed char)(a[i] << 1) < (short)b[i] ? -1 : a[i] >> 2;
}

// The product of two numbers of 128 bits, and their sum: two halves each, the lower first.
extern "C" __global__ void wide(const unsigned long long *a, const unsigned long long *b, unsigned long long *out)
{
    int i = 2 * threadIdx.x;
    unsigned __int128 x = (unsigned __int128)a[i + 1] << 64 | a[i];
    unsigned __int128 y = (unsigned __int128)b[i + 1] << 64 | b[i];
    unsigned __int128 product = x * y, sum = x + y;
    out[2 * i] = (unsigned long long)product;
    out[2 * i + 1] = (unsigned long long)(product >> 64);
    out[2 * i + 2] = (unsigned long long)sum;
    out[2 * i + 3] = (unsigned long long)(sum >> 64);
}
