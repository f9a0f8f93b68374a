// SPDX-License-Identifier: Apache-2.0 OR MIT
// Starting, versions, results' names, devices and their attributes.
#include "t0.h"

static void before_init(void) {
    int number = 0;
    size_t bytes = 0;
    char text[64];
    void *pointer;
    CUdeviceptr address = 0;
    CUdevice device;
    CUcontext context;
    CUstream stream;
    CUevent event;
    CUmodule module;
    TELL(cuDriverGetVersion(NULL));
    TELL_VALUE(cuDriverGetVersion(&number), number);
    TELL(cuInit(1));
    TELL(cuInit(0xffffffff));
    TELL(cuDeviceGetCount(&number));
    TELL(cuDeviceGet(&device, 0));
    TELL(cuDeviceGetName(text, sizeof text, 0));
    TELL(cuDeviceGetAttribute(&number, 1, 0));
    TELL(cuDeviceTotalMem_v2(&bytes, 0));
    TELL(cuDeviceGetPCIBusId(text, sizeof text, 0));
    TELL(cuCtxCreate_v2(&context, 0, 0));
    TELL(cuCtxGetCurrent(&context));
    TELL(cuCtxSetCurrent(NULL));
    TELL(cuCtxPopCurrent_v2(&context));
    TELL(cuCtxGetDevice(&device));
    TELL(cuCtxSynchronize());
    TELL(cuMemAlloc_v2(&address, 16));
    TELL(cuMemFree_v2(0));
    TELL(cuMemGetInfo_v2(&bytes, &bytes));
    TELL(cuMemAllocHost_v2(&pointer, 16));
    TELL(cuMemHostAlloc(&pointer, 16, 0));
    TELL(cuMemcpyHtoD_v2(0x1000, text, 16));
    TELL(cuMemcpyDtoH_v2(text, 0x1000, 16));
    TELL(cuMemsetD8_v2(0x1000, 0, 16));
    TELL(cuModuleLoadData(&module, kernels_ptx));
    TELL_VALUE(cuModuleGetLoadingMode(&number), number);
    TELL(cuStreamCreate(&stream, 0));
    TELL(cuStreamSynchronize(NULL));
    TELL(cuStreamQuery(NULL));
    TELL(cuEventCreate(&event, 0));
    TELL(cuInit(0));
    TELL(cuInit(0));
    TELL(cuInit(7));
    TELL_VALUE(cuDriverGetVersion(&number), number);
    TELL(cuModuleGetLoadingMode(NULL));
    TELL_VALUE(cuModuleGetLoadingMode(&number), number);
}

static void results(void) {
    const char *text = "untouched";
    for (int code = -2; code <= 1002; code++) {
        const char *name = "untouched";
        CUresult named = cuGetErrorName(code, &name);
        CUresult described = cuGetErrorString(code, &text);
        if (named == CUDA_SUCCESS || described == CUDA_SUCCESS)
            say("%d: %d %s, %d %s", code, named, name != NULL ? name : "null", described, text != NULL ? text : "null");
    }
    text = "untouched";
    TELL(cuGetErrorName(77777, &text));
    say("the name is %s", text != NULL ? text : "null");
    text = "untouched";
    TELL(cuGetErrorString(-1, &text));
    say("the text is %s", text != NULL ? text : "null");
    TELL(cuGetErrorName(0, NULL));
    TELL(cuGetErrorString(0, NULL));
    TELL(cuGetErrorName(77777, NULL));
}

static void devices(void) {
    NEED(cuInit(0));
    int number = -1, other = -1;
    size_t bytes = 0;
    char text[256];
    unsigned char uuid[16], uuid2[16];
    CUdevice device = -1;
    TELL_VALUE(cuDeviceGetCount(&number), number);
    TELL(cuDeviceGetCount(NULL));
    TELL_VALUE(cuDeviceGet(&device, 0), device);
    TELL(cuDeviceGet(NULL, 0));
    TELL(cuDeviceGet(NULL, 1000));
    TELL(cuDeviceGet(&device, -1));
    TELL(cuDeviceGet(&device, 1000));
    device = 0;

    TELL(cuDeviceGetName(text, sizeof text, 0));
    say("name %s", text);
    for (int len = -1; len < 8; len++) {
        memset(text, '#', sizeof text);
        text[20] = 0;
        CUresult result = cuDeviceGetName(text, len, 0);
        say("cuDeviceGetName(text, %d, 0) = %s, %s", len, result_name(result), text);
    }
    TELL(cuDeviceGetName(NULL, 10, 0));
    TELL(cuDeviceGetName(text, 10, -1));
    TELL(cuDeviceGetName(text, 10, 1000));

    memset(uuid, 0, sizeof uuid);
    TELL(cuDeviceGetUuid(uuid, 0));
    TELL(cuDeviceGetUuid_v2(uuid2, 0));
    printf("devices: uuid ");
    for (int i = 0; i < 16; i++)
        printf("%02x", uuid[i]);
    printf(", both forms equal: %d\n", memcmp(uuid, uuid2, 16) == 0);
    TELL(cuDeviceGetUuid(NULL, 0));
    TELL(cuDeviceGetUuid_v2(uuid, 1000));

    TELL_VALUE(cuDeviceTotalMem_v2(&bytes, 0), bytes);
    TELL(cuDeviceTotalMem_v2(NULL, 0));
    TELL(cuDeviceTotalMem_v2(&bytes, -1));

    TELL_VALUE(cuDeviceComputeCapability(&number, &other, 0), number * 10 + other);
    TELL(cuDeviceComputeCapability(NULL, &other, 0));
    TELL(cuDeviceComputeCapability(&number, NULL, 0));
    TELL(cuDeviceComputeCapability(&number, &other, 5000));

    int properties[14] = {0};
    TELL(cuDeviceGetProperties(properties, 0));
    for (int i = 0; i < 14; i++)
        say("property %d: %d", i, properties[i]);
    TELL(cuDeviceGetProperties(NULL, 0));
    TELL(cuDeviceGetProperties(properties, -1));
}

static void pci(void) {
    NEED(cuInit(0));
    char id[64], text[64], other[96];
    CUdevice device = -1;
    TELL(cuDeviceGetPCIBusId(id, sizeof id, 0));
    say("id %s", id);
    for (int len = -1; len <= 14; len++) {
        memset(text, '#', sizeof text);
        text[20] = 0;
        CUresult result = cuDeviceGetPCIBusId(text, len, 0);
        say("cuDeviceGetPCIBusId(text, %d, 0) = %s, %s", len, result_name(result), text);
    }
    TELL(cuDeviceGetPCIBusId(NULL, 20, 0));
    TELL(cuDeviceGetPCIBusId(text, 20, 1000));
    TELL_VALUE(cuDeviceGetByPCIBusId(&device, id), device);
    for (char *c = id; *c; c++)
        if (*c >= 'A' && *c <= 'F')
            *c += 'a' - 'A';
    TELL_VALUE(cuDeviceGetByPCIBusId(&device, id), device);
    strcpy(text, id);
    text[strlen(text) - 2] = 0;
    TELL_VALUE(cuDeviceGetByPCIBusId(&device, text), device);
    TELL_VALUE(cuDeviceGetByPCIBusId(&device, text + 5), device);
    TELL_VALUE(cuDeviceGetByPCIBusId(&device, id + 5), device);
    snprintf(other, sizeof other, "0000%s", id);
    TELL_VALUE(cuDeviceGetByPCIBusId(&device, other), device);
    snprintf(other, sizeof other, "%s junk", id);
    TELL_VALUE(cuDeviceGetByPCIBusId(&device, other), device);
    TELL(cuDeviceGetByPCIBusId(&device, "0000:fe:1f.7"));
    TELL(cuDeviceGetByPCIBusId(&device, "nothing"));
    TELL(cuDeviceGetByPCIBusId(&device, ""));
    TELL(cuDeviceGetByPCIBusId(&device, NULL));
    TELL(cuDeviceGetByPCIBusId(NULL, id));
}

static void attributes(void) {
    NEED(cuInit(0));
    int value = 0;
    for (int attribute = -1; attribute <= 180; attribute++) {
        value = -12345;
        CUresult result = cuDeviceGetAttribute(&value, attribute, 0);
        if (result == CUDA_SUCCESS)
            say("attribute %d: %d", attribute, value);
        else
            say("attribute %d: %s", attribute, result_name(result));
    }
    TELL(cuDeviceGetAttribute(&value, 1000000, 0));
    TELL(cuDeviceGetAttribute(&value, -2147483647, 0));
    TELL(cuDeviceGetAttribute(NULL, 1, 0));
    TELL(cuDeviceGetAttribute(&value, 1, -1));
    TELL(cuDeviceGetAttribute(&value, 1, 1000));
    TELL(cuDeviceGetAttribute(&value, 1000000, 1000));
}

static void export_tables(void) {
    const unsigned char unknown[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    const void *table = &unknown;
    NEED(cuInit(0));
    TELL(cuGetExportTable(&table, unknown));
    say("table is null: %d", table == NULL);
    TELL(cuGetExportTable(NULL, unknown));
}

static void export_table_of_nothing(void) {
    const void *table = NULL;
    TELL(cuGetExportTable(&table, NULL));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(before_init), SECTION(results), SECTION(devices), SECTION(pci),
        SECTION(attributes), SECTION(export_tables), SECTION(export_table_of_nothing),
    };
    return RUN_SECTIONS(sections);
}
