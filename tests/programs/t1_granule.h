// SPDX-License-Identifier: Apache-2.0 OR MIT
// What the t1_ programs on memory without an address share: of what it is made, and who may use it.
#pragma once
#include "t1_memory.h"

static size_t granule;
static CUmemAllocationProp props;
static CUmemAccessDesc everything;

// Memory of the device that may be exported so.
static void with_granule_for(int handle_types) {
    with_kernels();
    memset(&props, 0, sizeof props);
    props.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.requestedHandleTypes = handle_types;
    props.location = (CUmemLocation){CU_MEM_LOCATION_TYPE_DEVICE, device};
    everything = (CUmemAccessDesc){props.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    NEED(cuMemGetAllocationGranularity(&granule, &props, 0));
}
