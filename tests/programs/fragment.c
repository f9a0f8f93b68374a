// SPDX-License-Identifier: Apache-2.0 OR MIT
// Breaks this machine's free memory up and holds it so until it is ended: takes most of it page by page, then
// gives all back but one page in every `step`. Argument: step in pages (default 64).
// Prints which part of the free memory is left in whole 2 MiB blocks.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t meminfo(const char *name) {
    char line[256];
    size_t kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0)
            kib = strtoul(line + strlen(name) + 1, NULL, 10);
    if (file)
        fclose(file);
    return kib << 10;
}

// Per cent of the free memory that lies in blocks of 2 MiB or more.
static double whole_blocks(void) {
    char line[512];
    double all = 0, whole = 0;
    FILE *file = fopen("/proc/buddyinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *at = strstr(line, "zone"), *end;
        if (at == NULL)
            continue;
        at += strcspn(at, " ");
        at += strspn(at, " ");
        at += strcspn(at, " ");
        for (int order = 0; order <= 10; order++) {
            double bytes = strtod(at, &end) * (double)(4096ul << order);
            if (end == at)
                break;
            all += bytes;
            whole += order >= 9 ? bytes : 0;
            at = end;
        }
    }
    if (file)
        fclose(file);
    return all > 0 ? 100 * whole / all : 0;
}

int main(int argc, char **argv) {
    size_t step = argc > 1 ? strtoul(argv[1], NULL, 10) : 64, page = 4096;
    // The rest of the system must live, too.
    size_t available = meminfo("MemAvailable:"), spare = 160u << 20;
    size_t bytes = (available > 2 * spare ? available - spare : available / 2) / page * page;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("fragment: %.0f%% of the free memory was in whole 2 MiB blocks\n", whole_blocks());
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || step < 2 || madvise(memory, bytes, MADV_NOHUGEPAGE) != 0) {
        perror("fragment");
        return 1;
    }
    for (size_t at = 0; at < bytes; at += page)
        memory[at] = 1;
    for (size_t at = 0; at < bytes; at += page)
        if (at / page % step != 0 && madvise(memory + at, page, MADV_DONTNEED) != 0) {
            perror("fragment");
            return 1;
        }
    printf("fragment: %.0f%% is now, holding %zu MiB of %zu\n", whole_blocks(), bytes / step >> 20, bytes >> 20);
    for (;;)
        pause();
}
