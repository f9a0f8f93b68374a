// Double precision: a polynomial, and the library's functions.

// Coefficients from the highest power down.
extern "C" __global__ void polynomial(const double *coefficients, int count, const double *x, double *y, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    double value = 0;
    for (int k = 0; k < count; k++)
        value = value * x[i] + coefficients[k];
    y[i] = value;
}

// Each operation that is rounded right, so that its result is the host's to the last bit: 10 results for each pair.
extern "C" __global__ void exact_f64(const double *a, const double *b, double *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    double *o = out + 10 * i;
    o[0] = __dadd_rn(a[i], b[i]);
    o[1] = a[i] - b[i];
    o[2] = __dmul_rn(a[i], b[i]);
    o[3] = a[i] / b[i];
    o[4] = sqrt(fabs(a[i]));
    o[5] = fma(a[i], b[i], 1.5);
    o[6] = floor(a[i]);
    o[7] = rint(a[i]);
    o[8] = fmin(a[i], b[i]);
    o[9] = (double)(long long)trunc(a[i]) + (double)(float)b[i];
}

// 8 results for each x, which is above 0.
extern "C" __global__ void functions_f64(const double *x, double *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    double *o = out + 8 * i;
    o[0] = exp(x[i] / 100);
    o[1] = log(x[i]);
    o[2] = sin(x[i]);
    o[3] = cos(x[i] * 1000000);
    o[4] = pow(x[i], 0.3);
    o[5] = atan2(x[i], 3.0);
    o[6] = cbrt(x[i]);
    o[7] = tanh(x[i] / 10);
}
