// SPDX-License-Identifier: Apache-2.0 OR MIT
// What CUDA_VISIBLE_DEVICES shows, by the GPUs' ordinals without it. Each value needs a process of its own, since it is looked
// at once, when CUDA starts.
#include "t0.h"

enum { MOST = 16, UUID = 16 };

struct seen {
    CUresult result;
    int count;
    unsigned char uuids[MOST][UUID];
};

// What a process sees that starts with this value, or without one.
static struct seen look(const char *value) {
    struct seen seen = {.result = -1}, *told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE,
                                                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (told == MAP_FAILED)
        exit(1);
    *told = seen;
    pid_t child = fork();
    if (child == 0) {
        if (value != NULL)
            setenv("CUDA_VISIBLE_DEVICES", value, 1);
        else
            unsetenv("CUDA_VISIBLE_DEVICES");
        told->result = cuInit(0);
        if (told->result == CUDA_SUCCESS) {
            // Too late.
            setenv("CUDA_VISIBLE_DEVICES", "", 1);
            cuDeviceGetCount(&told->count);
            for (int at = 0; at < told->count && at < MOST; at++)
                cuDeviceGetUuid_v2(told->uuids[at], at);
        }
        _exit(0);
    }
    waitpid(child, NULL, 0);
    seen = *told;
    munmap(told, sizeof *told);
    return seen;
}

static struct seen all;

static void show(const char *value, const char *shown) {
    struct seen seen = look(value);
    char text[MOST * 4 + 1] = "", *end = text;
    for (int at = 0; at < seen.count && at < MOST; at++) {
        int place = 0;
        while (place < all.count && memcmp(all.uuids[place], seen.uuids[at], UUID) != 0)
            place++;
        end += sprintf(end, " %d", place);
    }
    say("\"%s\": %s, %d:%s", shown, result_name(seen.result), seen.count, text);
}

static void ordinals(void) {
    static const char *const values[] = {
        "0", "", " ", "-1", "1000", "none", "0,1000", "0,-1", "0,none", "0,", "0,,0", ",0", "1000,0", "-1,0", "0,1000,0",
        "0,0", "0,00", " 0", "0 ", "\t0\n", " 0 , 1000", "0x1", "0gpu", "+0", "-0", "- 0", "00", "0;1", "0.5", "0-1",
        "4294967296", "99999999999999999999", "'0'", "GPU-", "GPU-none", "MIG-none", "0,GPU-none", "gpu", "1", "1,0", "0,1", "0,1,0",
        "1,1", "1,0,1000",
    };
    all = look(NULL);
    for (size_t at = 0; at < sizeof values / sizeof *values; at++)
        show(values[at], values[at]);
}

// A value with U and V for the UUIDs of the first and the second GPU, u and v for how they begin, and X for the first one's in
// capitals.
static void spelled(const char *form) {
    const char *shown = form;
    char value[400], *end = value;
    for (; *form != 0; form++) {
        if (strchr("UVuvX", *form) == NULL) {
            *end++ = *form;
            continue;
        }
        int second = *form == 'V' || *form == 'v', digits = *form == 'u' || *form == 'v' ? 8 : UUID;
        end += sprintf(end, "GPU-");
        for (int at = 0; at < digits; at++)
            end += sprintf(end, *form == 'X' ? "%s%02X" : "%s%02x",
                           at == 4 || at == 6 || at == 8 || at == 10 ? "-" : "", all.uuids[second][at]);
    }
    *end = 0;
    show(value, shown);
}

static void uuids(void) {
    static const char *const one[] = {"U", "U,0", "0,U", "U,U", " U", "U ", "U,1000", "Ux", "X", "1000,U", "U,none", "U,"};
    static const char *const two[] = {"V", "V,U", "v", "U,V,U", "V,0", "1,U", "U,1", "0,V", "U, V", "V,1"};
    all = look(NULL);
    for (size_t at = 0; at < sizeof one / sizeof *one; at++)
        spelled(one[at]);
    for (size_t at = 0; all.count > 1 && at < sizeof two / sizeof *two; at++)
        spelled(two[at]);
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(ordinals),
        SECTION(uuids),
    };
    return RUN_SECTIONS(sections);
}
