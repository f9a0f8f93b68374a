// SPDX-License-Identifier: Apache-2.0 OR MIT
// Opens libcuda, uses it, closes it, and opens it again, as programs do that look whether there is a GPU. In between the
// session lives on: the library stays.
#include <dlfcn.h>
#include <stdio.h>

typedef int (*call_t)();

static void *library;

static call_t get(const char *name) {
    call_t call = (call_t)dlsym(library, name);
    if (!call)
        printf("reload: %s\n", dlerror());
    return call;
}

#define MUST(condition)                                                                                            \
    do {                                                                                                           \
        if (!(condition)) {                                                                                        \
            printf("reload: round %d: not so: %s\n", round, #condition);                                           \
            return 1;                                                                                              \
        }                                                                                                          \
    } while (0)

int main(void) {
    unsigned long long kept = 0, p;
    void *context;
    for (int round = 0; round < 5; round++) {
        int device, count = 0, word = 0, wanted = 1000 + round;
        library = dlopen("libcuda.so.1", RTLD_NOW | (round % 2 ? RTLD_GLOBAL : RTLD_LOCAL));
        MUST(library);
        MUST(get("cuInit")(0) == 0);
        MUST(get("cuDeviceGetCount")(&count) == 0 && count > 0);
        MUST(get("cuDeviceGet")(&device, 0) == 0);
        MUST(round || get("cuCtxCreate_v2")(&context, 0, device) == 0);
        MUST(get("cuCtxSetCurrent")(context) == 0);
        if (kept) {
            // What an earlier round left there.
            MUST(get("cuMemcpyDtoH_v2")(&word, kept, sizeof word) == 0);
            MUST(word == wanted - 1);
            MUST(get("cuMemFree_v2")(kept) == 0);
        }
        MUST(get("cuMemAlloc_v2")(&p, sizeof word) == 0);
        MUST(get("cuMemcpyHtoD_v2")(p, &wanted, sizeof wanted) == 0);
        kept = p;
        MUST(dlclose(library) == 0);
    }
    printf("reload: all rounds right\n");
    return 0;
}
