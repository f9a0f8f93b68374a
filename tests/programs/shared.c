// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory and pools that processes share by descriptors. By the argument:
// none: between processes of one VM, whoever ends first; foreign SOCKET: another VM, whose backend listens there, finds nothing.
#include "common.h"
#include "memory_abi.h"
#include "passed.h"

#define FILE_HANDLE CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
enum { WORDS = 1 << 19, POOL_WORDS = 100000, NOT_SUPPORTED = 801 };

static void *as_handle(int descriptor) { return (void *)(uintptr_t)(unsigned)descriptor; }

// Has a kernel add to so many words.
static void add(CUdeviceptr at, uint32_t by, uint32_t n) {
    void *params[] = {&at, &by, &n};
    CHECK(cuLaunchKernel(kernel("increment"), (n + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
    CHECK(cuCtxSynchronize());
}

// All of so many words must be `word`.
static void all_are(CUdeviceptr at, uint32_t word, uint32_t n) {
    uint32_t *got = malloc(4 * (size_t)n);
    CHECK(cuMemcpyDtoH_v2(got, at, 4 * (size_t)n));
    for (uint32_t i = 0; i < n; i++)
        EXPECT(got[i] == word, "word %u is %u, not %u", i, got[i], word);
    free(got);
}

static CUmemAllocationProp wanted(void) {
    CUmemAllocationProp props = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = FILE_HANDLE,
        .location = {CU_MEM_LOCATION_TYPE_DEVICE, device},
    };
    return props;
}

// Maps memory of a handle, and lets go of the handle.
static CUdeviceptr mapped(CUmemGenericAllocationHandle handle) {
    CUdeviceptr at;
    CUmemAccessDesc access = {wanted().location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CHECK(cuMemAddressReserve(&at, 4 * WORDS, 0, 0, 0));
    CHECK(cuMemMap(at, 4 * WORDS, 0, handle, 0));
    CHECK(cuMemSetAccess(at, 4 * WORDS, &access, 1));
    CHECK(cuMemRelease(handle));
    return at;
}

static void unmap(CUdeviceptr at) {
    CHECK(cuMemUnmap(at, 4 * WORDS));
    CHECK(cuMemAddressFree(at, 4 * WORDS));
}

// New memory that is mapped, full of sevens; its descriptor.
static int exported(CUdeviceptr *at) {
    CUmemAllocationProp props = wanted();
    CUmemGenericAllocationHandle handle;
    int file = -1;
    CHECK(cuMemCreate(&handle, 4 * WORDS, &props, 0));
    CHECK(cuMemExportToShareableHandle(&file, handle, FILE_HANDLE, 0));
    *at = mapped(handle);
    CHECK(cuMemsetD32_v2(*at, 7, WORDS));
    CHECK(cuCtxSynchronize());
    return file;
}

static CUdeviceptr imported(int file) {
    CUmemGenericAllocationHandle handle;
    CHECK(cuMemImportFromShareableHandle(&handle, as_handle(file), FILE_HANDLE));
    return mapped(handle);
}

// A new pool with two allocations, full of ones and twos.
struct pool {
    CUmemoryPool pool;
    CUdeviceptr at[2];
    CUmemPoolPtrExportData data[2];
    int file;
};

static struct pool exported_pool(void) {
    struct pool own = {.file = -1};
    CUmemPoolProps props = {
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .handleTypes = FILE_HANDLE, .location = wanted().location};
    CHECK(cuMemPoolCreate(&own.pool, &props));
    CHECK(cuMemPoolExportToShareableHandle(&own.file, own.pool, FILE_HANDLE, 0));
    for (int i = 0; i < 2; i++) {
        CHECK(cuMemAllocFromPoolAsync(&own.at[i], 4 * POOL_WORDS, own.pool, NULL));
        CHECK(cuMemsetD32_v2(own.at[i], i + 1, POOL_WORDS));
        CHECK(cuMemPoolExportPointer(&own.data[i], own.at[i]));
    }
    CHECK(cuCtxSynchronize());
    return own;
}

static void imports(CUmemoryPool pool, const CUmemPoolPtrExportData *data, CUdeviceptr *at) {
    for (int i = 0; i < 2; i++) {
        CUmemPoolPtrExportData copy = data[i];
        CHECK(cuMemPoolImportPointer(&at[i], pool, &copy));
    }
}

// No session finds what a descriptor stands for, soon. Natively the descriptor keeps it there.
static void is_gone(int file) {
    if (!over_vgpu())
        return;
    CUmemGenericAllocationHandle handle = 0;
    CUresult result = CUDA_SUCCESS;
    for (int tries = 0; tries < 1000 && result == CUDA_SUCCESS; tries++) {
        result = cuMemImportFromShareableHandle(&handle, as_handle(file), FILE_HANDLE);
        if (result == CUDA_SUCCESS) {
            CHECK(cuMemRelease(handle));
            usleep(10000);
        }
    }
    EXPECT(result == CUDA_ERROR_UNKNOWN, "importing what is gone gave %d", result);
}

// Both sides read and write, in both kinds of memory.
static void between(void) {
    CUdeviceptr at;
    int file = exported(&at);
    struct pool own = exported_pool();
    struct other other = start_other("between", NULL);
    pass(other.socket, own.data, sizeof own.data, file);
    pass(other.socket, "!", 1, own.file);
    wait_for_it(other.socket);
    all_are(at, 17, WORDS);
    all_are(own.at[0], 21, POOL_WORDS);
    all_are(own.at[1], 22, POOL_WORDS);
    add(at, 1, WORDS);
    add(own.at[0], 1, POOL_WORDS);
    go_on(other.socket);
    wait_for_it(other.socket);
    end_other(other);
    all_are(at, 18, WORDS);
    // Whoever lets go of what he made takes its descriptors' meaning away, though they are open.
    unmap(at);
    is_gone(file);
    close(file);
    close(own.file);
    for (int i = 0; i < 2; i++)
        CHECK(cuMemFreeAsync(own.at[i], NULL));
    CHECK(cuStreamSynchronize(NULL));
    CHECK(cuMemPoolDestroy(own.pool));
}

static void between_other(int socket) {
    CUmemPoolPtrExportData data[2], wrong;
    CUdeviceptr words[2], nothing;
    CUmemoryPool pool, other_pool;
    CUmemGenericAllocationHandle handle;
    char word;
    int file = take(socket, data, sizeof data), pool_file = take(socket, &word, 1);
    CUdeviceptr at = imported(file);
    CHECK(cuMemPoolImportFromShareableHandle(&pool, as_handle(pool_file), FILE_HANDLE, 0));
    imports(pool, data, words);
    // Each for what it is, and with the pool that it is of.
    EXPECT(cuMemImportFromShareableHandle(&handle, as_handle(pool_file), FILE_HANDLE) == NOT_SUPPORTED, "a pool");
    EXPECT(cuMemPoolImportFromShareableHandle(&other_pool, as_handle(file), FILE_HANDLE, 0) == NOT_SUPPORTED, "no pool");
    struct pool own = exported_pool();
    CHECK(cuMemPoolImportFromShareableHandle(&other_pool, as_handle(own.file), FILE_HANDLE, 0));
    EXPECT(cuMemPoolImportPointer(&nothing, other_pool, &data[0]) == CUDA_ERROR_INVALID_VALUE, "of another pool");
    memset(&wrong, 0x5a, sizeof wrong);
    EXPECT(cuMemPoolImportPointer(&nothing, pool, &wrong) == CUDA_ERROR_INVALID_VALUE, "no pointer");
    close(file);
    close(pool_file);
    all_are(at, 7, WORDS);
    all_are(words[0], 1, POOL_WORDS);
    all_are(words[1], 2, POOL_WORDS);
    add(at, 10, WORDS);
    add(words[0], 20, POOL_WORDS);
    add(words[1], 20, POOL_WORDS);
    go_on(socket);
    wait_for_it(socket);
    all_are(at, 18, WORDS);
    all_are(words[0], 22, POOL_WORDS);
    CHECK(cuMemFree_v2(words[0]));
    CHECK(cuMemFreeAsync(words[1], NULL));
    CHECK(cuStreamSynchronize(NULL));
    CHECK(cuMemPoolDestroy(pool));
    unmap(at);
    go_on(socket);
}

// The process that made it ends, and the one that has imported it goes on.
static void left(void) {
    struct other other = start_other("left", NULL);
    CUmemPoolPtrExportData data[2];
    CUdeviceptr words[2];
    CUmemoryPool pool;
    char word;
    int file = take(other.socket, data, sizeof data), pool_file = take(other.socket, &word, 1);
    CUdeviceptr at = imported(file);
    CHECK(cuMemPoolImportFromShareableHandle(&pool, as_handle(pool_file), FILE_HANDLE, 0));
    imports(pool, data, words);
    go_on(other.socket);
    end_other(other);
    is_gone(file);
    all_are(at, 7, WORDS);
    all_are(words[1], 2, POOL_WORDS);
    add(at, 1, WORDS);
    add(words[1], 1, POOL_WORDS);
    all_are(at, 8, WORDS);
    all_are(words[1], 3, POOL_WORDS);
    unmap(at);
    EXPECT(cuMemPoolDestroy(pool) == CUDA_ERROR_INVALID_VALUE, "another process' pool, of which memory is in use");
    all_are(words[0], 1, POOL_WORDS);
    for (int i = 0; i < 2; i++)
        CHECK(cuMemFree_v2(words[i]));
    CHECK(cuMemPoolDestroy(pool));
    close(file);
    close(pool_file);
}

static void left_other(int socket) {
    CUdeviceptr at;
    int file = exported(&at);
    struct pool own = exported_pool();
    pass(socket, own.data, sizeof own.data, file);
    pass(socket, "!", 1, own.file);
    wait_for_it(socket);
}

// A program of another VM that gets hold of a descriptor has nothing of it.
static void foreign(const char *vgpu_socket) {
    CUdeviceptr at;
    int file = exported(&at);
    struct pool own = exported_pool();
    struct other other = start_other("foreign", vgpu_socket);
    pass(other.socket, "!", 1, file);
    pass(other.socket, "!", 1, own.file);
    wait_for_it(other.socket);
    end_other(other);
    all_are(at, 7, WORDS);
}

static void foreign_other(int socket) {
    CUmemGenericAllocationHandle handle;
    CUmemoryPool pool;
    char word;
    int file = take(socket, &word, 1), pool_file = take(socket, &word, 1);
    EXPECT(cuMemImportFromShareableHandle(&handle, as_handle(file), FILE_HANDLE) == CUDA_ERROR_UNKNOWN, "memory");
    EXPECT(cuMemPoolImportFromShareableHandle(&pool, as_handle(pool_file), FILE_HANDLE, 0) == CUDA_ERROR_UNKNOWN, "a pool");
    go_on(socket);
}

int main(int argc, char **argv) {
    setup();
    if (argc == 4 && strcmp(argv[1], "--other") == 0) {
        void (*what)(int) = strcmp(argv[2], "between") == 0 ? between_other
                            : strcmp(argv[2], "left") == 0  ? left_other
                                                            : foreign_other;
        what(atoi(argv[3]));
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "foreign") == 0) {
        foreign(argv[2]);
    } else {
        between();
        left();
    }
    printf("shared: right\n");
    return 0;
}
