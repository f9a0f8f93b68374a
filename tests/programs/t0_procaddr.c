// SPDX-License-Identifier: Apache-2.0 OR MIT
// cuGetProcAddress: for every name of the file that is its argument (one symbol a line), which symbol each version and
// flag gives.
#define _GNU_SOURCE
#include "cuda_abi.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 2000
static char names[NAMES_MAX][96];
static void *addresses[NAMES_MAX];
static int count;

static const char *symbol_of(const void *address, const char *name) {
    // Two symbols may be one function: the one that is called like it is meant.
    const char *found = "a function of no name";
    for (int i = 0; i < count; i++) {
        if (addresses[i] == address && address != NULL) {
            found = names[i];
            if (strncmp(names[i], name, strlen(name)) == 0)
                return found;
        }
    }
    return found;
}

// What one question gives, as text.
static void ask(const char *name, int version, unsigned long long flags, char *to, size_t len) {
    void *function = &count;
    int status = -1;
    CUresult result = cuGetProcAddress_v2(name, &function, version, flags, &status);
    if (result == CUDA_SUCCESS && function != NULL)
        snprintf(to, len, "%.95s (%d)", symbol_of(function, name), status);
    else
        snprintf(to, len, "error %d, status %d%s", result, status, function == NULL ? "" : ", not null");
}

static void ask_all(const char *name) {
    static const int versions[] = {0,     2000,  3000,  3020,  4000,  5000,  6000,  6050,  7000,  8000,  9000,  9020,
                                   10000, 10010, 10020, 11000, 11010, 11020, 11030, 11040, 11060, 11070, 11080, 12000,
                                   12010, 12020, 12030, 12040, 12050, 12060, 12080, 12090, 13000};
    for (unsigned long long flags = 0; flags <= 2; flags++) {
        char now[160], before[160] = "";
        for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
            ask(name, versions[i], flags, now, sizeof now);
            if (strcmp(now, before) != 0)
                printf("%s, flags %llu, from %d: %s\n", name, flags, versions[i], now);
            strcpy(before, now);
        }
    }
}

static int ends(char *name, const char *with) {
    size_t len = strlen(name), end = strlen(with);
    if (len <= end || strcmp(name + len - end, with) != 0)
        return 0;
    name[len - end] = 0;
    return 1;
}

int main(int argc, char **argv) {
    FILE *list = argc > 1 ? fopen(argv[1], "r") : NULL;
    if (list == NULL) {
        printf("usage: t0_procaddr FILE\n");
        return 2;
    }
    while (count < NAMES_MAX && fscanf(list, "%95s", names[count]) == 1) {
        addresses[count] = dlsym(RTLD_DEFAULT, names[count]);
        count++;
    }
    fclose(list);
    // Every name without its version and variant, once: the list is sorted well enough for that.
    static char asked[NAMES_MAX][96];
    int asked_count = 0;
    for (int i = 0; i < count; i++) {
        char base[96];
        strcpy(base, names[i]);
        if (!ends(base, "_ptsz"))
            ends(base, "_ptds");
        char *version = strrchr(base, '_');
        if (version != NULL && version[1] == 'v' && strspn(version + 2, "0123456789") == strlen(version + 2))
            *version = 0;
        int known = 0;
        for (int j = 0; j < asked_count; j++)
            known |= strcmp(asked[j], base) == 0;
        if (!known)
            strcpy(asked[asked_count++], base);
    }
    for (int i = 0; i < asked_count; i++)
        ask_all(asked[i]);
    // Names that there are not, and wrong arguments.
    char text[160];
    static const char *strange[] = {"cuNothing", "", "cuMemAlloc_v2", "cuLaunchKernel_ptsz", "cudaMalloc", "printf", "CUINIT"};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        ask(strange[i], 13000, 0, text, sizeof text);
        printf("\"%s\": %s\n", strange[i], text);
    }
    static const int versions[] = {-1, 13010, 14000, 99999, 2147483647};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        ask("cuMemAlloc", versions[i], 0, text, sizeof text);
        printf("version %d: %s\n", versions[i], text);
    }
    static const unsigned long long flags[] = {0, 1, 2, 3, 4, 8, 1ull << 32, ~0ull};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        ask("cuMemcpyHtoD", 13000, flags[i], text, sizeof text);
        printf("flags %llx: %s\n", flags[i], text);
    }
    void *function = &count;
    int status = -1;
    printf("null name: %d\n", cuGetProcAddress_v2(NULL, &function, 13000, 0, &status));
    printf("null place: %d, status %d\n", cuGetProcAddress_v2("cuInit", NULL, 13000, 0, &status), status);
    printf("null status: %d\n", cuGetProcAddress_v2("cuInit", &function, 13000, 0, NULL));
    printf("without status: %d\n", cuGetProcAddress("cuInit", &function, 11030, 0));
    function = &count;
    printf("without status, unknown: %d", cuGetProcAddress("cuNothing", &function, 11030, 0));
    printf(", null: %d\n", function == NULL);
    return 0;
}
