// SPDX-License-Identifier: Apache-2.0 OR MIT
// What the t1_ programs on memory share.
#pragma once
#include "memory_abi.h"
#include "t0.h"

static inline unsigned sum_of(const void *bytes, size_t len) {
    unsigned sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + ((const unsigned char *)bytes)[i];
    return sum;
}
