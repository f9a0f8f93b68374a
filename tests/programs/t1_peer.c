// SPDX-License-Identifier: Apache-2.0 OR MIT
// Access of one device to another's memory, as far as a single device tells of it.
#include "t1_memory.h"

CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer);
CUresult cuDeviceGetP2PAttribute(int *value, int attribute, CUdevice device, CUdevice peer);
CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags);
CUresult cuCtxDisablePeerAccess(CUcontext peer);

static void one_device(void) {
    with_context();
    int value = 9;
    TELL_VALUE(cuDeviceCanAccessPeer(&value, device, device), value);
    TELL(cuDeviceCanAccessPeer(NULL, device, device));
    TELL(cuDeviceCanAccessPeer(&value, 1000, device));
    TELL(cuDeviceCanAccessPeer(&value, device, 1000));
    TELL(cuDeviceGetP2PAttribute(&value, 1, device, device));
    TELL(cuDeviceGetP2PAttribute(&value, 1, device, 1000));
    TELL(cuDeviceGetP2PAttribute(NULL, 1, device, device));
    TELL(cuCtxEnablePeerAccess(context, 0));
    TELL(cuCtxDisablePeerAccess(context));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(one_device),
    };
    return RUN_SECTIONS(sections);
}
