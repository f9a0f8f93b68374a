// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory and pools that one process exports as a file descriptor and another one imports.
#include "passed.h"
#include "t1_granule.h"

#define FILE_HANDLE CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR

static void with_granule(void) { with_granule_for(FILE_HANDLE); }

static void *as_handle(int descriptor) { return (void *)(uintptr_t)(unsigned)descriptor; }

// Has a kernel add to so many words.
static void add(CUdeviceptr at, unsigned by, unsigned n) {
    void *parameters[] = {&at, &by, &n};
    TELL(cuLaunchKernel(kernel_of(module, "increment"), (n + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuCtxSynchronize());
}

static unsigned word_at(CUdeviceptr at) {
    unsigned word = 0xdead;
    TELL(cuMemcpyDtoH_v2(&word, at, sizeof word));
    return word;
}

// CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE and _ALLOWED_HANDLE_TYPES.
static void shareable_as(CUdeviceptr at) {
    unsigned legacy = 99;
    unsigned long long types = 99;
    TELL_VALUE(cuPointerGetAttribute(&legacy, 10, at), legacy);
    TELL_VALUE(cuPointerGetAttribute(&types, 14, at), types);
}

static void support(void) {
    with_granule();
    int value = -1;
    TELL_VALUE(cuDeviceGetAttribute(&value, 103, device), value);
    // Fabric handles are another matter.
    TELL_VALUE(cuDeviceGetAttribute(&value, 119, device), value & 1);
    say("granule %zu", granule);
    CUmemGenericAllocationHandle handle;
    TELL(cuMemCreate(&handle, granule, &props, 0));
    CUmemAllocationProp got;
    memset(&got, 0xff, sizeof got);
    TELL(cuMemGetAllocationPropertiesFromHandle(&got, handle));
    say("type %d, handle types %d, location %d %d", got.type, got.requestedHandleTypes, got.location.type, got.location.id);
    TELL(cuMemRelease(handle));
}

// With itself.
static void alone(void) {
    with_granule();
    CUmemGenericAllocationHandle ours, theirs;
    CUdeviceptr at;
    int file = -1, again = -1;
    NEED(cuMemAddressReserve(&at, 2 * granule, 0, 0, 0));
    NEED(cuMemCreate(&ours, granule, &props, 0));
    TELL(cuMemExportToShareableHandle(&file, ours, FILE_HANDLE, 0));
    TELL(cuMemExportToShareableHandle(&again, ours, FILE_HANDLE, 0));
    say("two: %d, closed by exec: %d", file != again, fcntl(file, F_GETFD) == FD_CLOEXEC);
    close(again);
    TELL(cuMemImportFromShareableHandle(&theirs, as_handle(file), FILE_HANDLE));
    close(file);
    TELL(cuMemMap(at, granule, 0, ours, 0));
    TELL(cuMemMap(at + granule, granule, 0, theirs, 0));
    TELL(cuMemSetAccess(at, 2 * granule, &everything, 1));
    shareable_as(at);
    shareable_as(at + granule + 4);
    TELL(cuMemsetD32_v2(at, 5, granule / 4));
    add(at + granule, 2, granule / 4);
    say("words %u %u", word_at(at), word_at(at + granule - 4));
    CUmemAllocationProp got;
    memset(&got, 0xff, sizeof got);
    TELL(cuMemGetAllocationPropertiesFromHandle(&got, theirs));
    say("type %d, handle types %d, location %d %d", got.type, got.requestedHandleTypes, got.location.type, got.location.id);
    // What was imported is not exported again.
    TELL(cuMemExportToShareableHandle(&file, theirs, FILE_HANDLE, 0));
    TELL(cuMemRelease(ours));
    TELL(cuMemRelease(theirs));
    TELL(cuMemUnmap(at, granule));
    say("word %u", word_at(at + granule));
    TELL(cuMemUnmap(at + granule, granule));
    close(file);
    TELL(cuMemAddressFree(at, 2 * granule));
}

static CUmemPoolProps pool_props(void) {
    CUmemPoolProps wanted = {
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
        .handleTypes = FILE_HANDLE,
        .location = {CU_MEM_LOCATION_TYPE_DEVICE, device},
    };
    return wanted;
}

static void wrongly(void) {
    with_granule();
    CUmemGenericAllocationHandle ours, plain, got = 0;
    int file = -1;
    NEED(cuMemCreate(&ours, granule, &props, 0));
    props.requestedHandleTypes = 0;
    NEED(cuMemCreate(&plain, granule, &props, 0));
    TELL(cuMemExportToShareableHandle(&file, plain, FILE_HANDLE, 0));
    TELL(cuMemExportToShareableHandle(&file, ours, 0, 0));
    TELL(cuMemExportToShareableHandle(&file, ours, FILE_HANDLE, 1));
    TELL(cuMemExportToShareableHandle(NULL, ours, FILE_HANDLE, 0));
    TELL(cuMemExportToShareableHandle(&file, 0, FILE_HANDLE, 0));
    TELL(cuMemExportToShareableHandle(&file, ours, FILE_HANDLE, 0));
    TELL(cuMemImportFromShareableHandle(NULL, as_handle(file), FILE_HANDLE));
    TELL(cuMemImportFromShareableHandle(&got, as_handle(file), 0));
    // No such descriptors, and such as are something else.
    int pipes[2];
    MUST(pipe(pipes) == 0);
    FILE *empty = tmpfile();
    MUST(empty != NULL);
    TELL(cuMemImportFromShareableHandle(&got, as_handle(-1), FILE_HANDLE));
    TELL(cuMemImportFromShareableHandle(&got, as_handle(1000), FILE_HANDLE));
    TELL(cuMemImportFromShareableHandle(&got, as_handle(pipes[0]), FILE_HANDLE));
    TELL(cuMemImportFromShareableHandle(&got, as_handle(fileno(empty)), FILE_HANDLE));
    TELL(cuMemImportFromShareableHandle(&got, as_handle(open("/dev/null", O_RDONLY)), FILE_HANDLE));
    CUmemoryPool pool = NULL;
    TELL(cuMemPoolImportFromShareableHandle(&pool, as_handle(file), FILE_HANDLE, 0));
    TELL(cuMemPoolImportFromShareableHandle(&pool, as_handle(1000), FILE_HANDLE, 0));
    TELL(cuMemPoolImportFromShareableHandle(&pool, as_handle(pipes[0]), FILE_HANDLE, 0));
    CUmemPoolProps wanted = pool_props();
    NEED(cuMemPoolCreate(&pool, &wanted));
    NEED(cuMemPoolExportToShareableHandle(&file, pool, FILE_HANDLE, 0));
    TELL(cuMemImportFromShareableHandle(&got, as_handle(file), FILE_HANDLE));
    TELL(cuMemPoolDestroy(pool));
    TELL(cuMemRelease(ours));
    TELL(cuMemRelease(plain));
    fclose(empty);
}

static void between_other(int socket) {
    with_granule();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at;
    char word;
    int file = take(socket, &word, 1);
    TELL(cuMemImportFromShareableHandle(&handle, as_handle(file), FILE_HANDLE));
    close(file);
    NEED(cuMemAddressReserve(&at, granule, 0, 0, 0));
    TELL(cuMemMap(at, granule, 0, handle, 0));
    TELL(cuMemRelease(handle));
    TELL(cuMemSetAccess(at, granule, &everything, 1));
    say("other: words %u %u", word_at(at), word_at(at + granule - 4));
    add(at, 100, granule / 4);
    go_on(socket);
    wait_for_it(socket);
    // The one that made it has let go of it.
    say("other: word %u", word_at(at + 4));
    TELL(cuMemUnmap(at, granule));
    go_on(socket);
}

static void between(void) {
    with_granule();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at;
    int file = -1;
    NEED(cuMemAddressReserve(&at, granule, 0, 0, 0));
    TELL(cuMemCreate(&handle, granule, &props, 0));
    TELL(cuMemMap(at, granule, 0, handle, 0));
    TELL(cuMemSetAccess(at, granule, &everything, 1));
    TELL(cuMemsetD32_v2(at, 7, granule / 4));
    TELL(cuCtxSynchronize());
    TELL(cuMemExportToShareableHandle(&file, handle, FILE_HANDLE, 0));
    struct other other = start_other("between", NULL);
    pass(other.socket, "!", 1, file);
    close(file);
    wait_for_it(other.socket);
    say("words %u %u", word_at(at), word_at(at + granule - 4));
    add(at, 1, granule / 4);
    TELL(cuMemUnmap(at, granule));
    TELL(cuMemRelease(handle));
    go_on(other.socket);
    wait_for_it(other.socket);
    end_other(other);
}

static void pools_other(int socket) {
    enum { EQUAL = 1 };
    with_kernels();
    CUmemoryPool pool;
    CUmemPoolPtrExportData data[2];
    CUdeviceptr a = 0, b = 0, own = 0;
    int file = take(socket, data, sizeof data);
    TELL(cuMemPoolImportFromShareableHandle(&pool, as_handle(file), FILE_HANDLE, 0));
    close(file);
    TELL(cuMemPoolImportPointer(NULL, pool, &data[0]));
    TELL(cuMemPoolImportPointer(&a, pool, &data[0]));
    TELL(cuMemPoolImportPointer(&b, pool, &data[1]));
    shareable_as(a);
    say("other: words %u %u", word_at(a), word_at(b + (1 << 20) - 4));
    add(a, 10, 1000);
    add(b, 20, 1 << 18);
    // It is another process' pool.
    TELL(cuMemAllocFromPoolAsync(&own, 4096, pool, NULL));
    TELL(cuDeviceSetMemPool(device, pool));
    int flags = -1;
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
    TELL_VALUE(cuMemPoolGetAccess(&flags, pool, &location), flags);
    // It stays as long as memory of it is in use.
    TELL(cuMemPoolDestroy(pool));
    TELL(cuMemFree_v2(a));
    TELL(cuMemPoolDestroy(pool));
    CUstream stream;
    volatile unsigned *word;
    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    NEED(cuMemHostAlloc((void **)&word, sizeof *word, 0));
    *word = 0;
    NEED(cuStreamWaitValue32_v2(stream, (CUdeviceptr)(uintptr_t)word, 1, EQUAL));
    TELL(cuMemFreeAsync(b, stream));
    TELL(cuMemPoolDestroy(pool));
    *word = 1;
    TELL(cuStreamSynchronize(stream));
    go_on(socket);
}

static void pools(void) {
    with_kernels();
    CUmemoryPool pool = NULL, plain = NULL, standard = NULL;
    CUmemPoolPtrExportData data[2];
    CUdeviceptr a = 0, b = 0, c = 0;
    int file = -1;
    CUmemPoolProps wanted = pool_props();
    TELL(cuMemPoolCreate(&pool, &wanted));
    wanted.handleTypes = 0;
    NEED(cuMemPoolCreate(&plain, &wanted));
    NEED(cuDeviceGetDefaultMemPool(&standard, device));
    TELL(cuMemAllocFromPoolAsync(&a, 4000, pool, NULL));
    TELL(cuMemAllocFromPoolAsync(&b, 1 << 20, pool, NULL));
    TELL(cuMemAllocFromPoolAsync(&c, 1 << 20, plain, NULL));
    shareable_as(a);
    shareable_as(c);
    TELL(cuMemsetD32_v2(a, 1, 1000));
    TELL(cuMemsetD32_v2(b, 2, 1 << 18));
    TELL(cuCtxSynchronize());
    TELL(cuMemPoolExportToShareableHandle(&file, plain, FILE_HANDLE, 0));
    TELL(cuMemPoolExportToShareableHandle(&file, standard, FILE_HANDLE, 0));
    TELL(cuMemPoolExportToShareableHandle(&file, pool, 0, 0));
    TELL(cuMemPoolExportToShareableHandle(&file, pool, FILE_HANDLE, 1));
    TELL(cuMemPoolExportToShareableHandle(NULL, pool, FILE_HANDLE, 0));
    TELL(cuMemPoolExportToShareableHandle(&file, pool, FILE_HANDLE, 0));
    TELL(cuMemPoolExportPointer(&data[0], c));
    TELL(cuMemPoolExportPointer(NULL, a));
    TELL(cuMemPoolExportPointer(&data[0], a));
    TELL(cuMemPoolExportPointer(&data[1], b));
    CUdeviceptr got = 0;
    TELL(cuMemPoolImportPointer(&got, plain, &data[0]));
    struct other other = start_other("pools", NULL);
    pass(other.socket, data, sizeof data, file);
    close(file);
    wait_for_it(other.socket);
    end_other(other);
    say("words %u %u", word_at(a), word_at(b));
    TELL(cuMemFreeAsync(a, NULL));
    TELL(cuMemFree_v2(b));
    TELL(cuMemFree_v2(c));
    TELL(cuStreamSynchronize(NULL));
    TELL(cuMemPoolDestroy(pool));
    TELL(cuMemPoolDestroy(plain));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(support), SECTION(alone), SECTION(wrongly), SECTION(between), SECTION(pools),
    };
    if (argc == 4 && strcmp(argv[1], "--other") == 0) {
        setvbuf(stdout, NULL, _IOLBF, 0);
        section_name = argv[2];
        alarm(SECTION_SECONDS);
        (strcmp(argv[2], "pools") == 0 ? pools_other : between_other)(atoi(argv[3]));
        return 0;
    }
    return RUN_SECTIONS(sections);
}
