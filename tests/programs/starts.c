// SPDX-License-Identifier: Apache-2.0 OR MIT
// Starts CUDA some times, 2 if the argument does not say otherwise: what each start said. Ends with the code of the last one.
#include "common.h"

int main(int argc, char **argv) {
    CUresult result = CUDA_SUCCESS;
    for (long i = argument(argc, argv, 1, 2); i > 0; i--) {
        const char *name = "?";
        result = cuInit(0);
        cuGetErrorName(result, &name);
        printf("starts: %s\n", name);
    }
    return result;
}
