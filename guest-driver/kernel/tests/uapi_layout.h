/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The layout of /dev/vgpu's interface, which is for ever and the same for 32-bit
 * programs. Compiling this is the test.
 */
#ifndef _UAPI_LAYOUT_H
#define _UAPI_LAYOUT_H

#include <stddef.h>

#include "vgpu.h"

_Static_assert(sizeof(struct vgpu_info) == 48, "vgpu_info");
_Static_assert(offsetof(struct vgpu_info, mapped_len_max) == 24, "vgpu_info");
_Static_assert(sizeof(struct vgpu_open) == 88, "vgpu_open");
_Static_assert(offsetof(struct vgpu_open, windows) == 8, "vgpu_open");
_Static_assert(offsetof(struct vgpu_open, window) == 72, "vgpu_open");
_Static_assert(offsetof(struct vgpu_open, session) == 80, "vgpu_open");
_Static_assert(sizeof(struct vgpu_open_gpus) == 104, "vgpu_open_gpus");
_Static_assert(offsetof(struct vgpu_open_gpus, gpus) == 88, "vgpu_open_gpus");
_Static_assert(offsetof(struct vgpu_open_gpus, gpus_len) == 96, "vgpu_open_gpus");
_Static_assert(sizeof(struct vgpu_alloc) == 32, "vgpu_alloc");
_Static_assert(offsetof(struct vgpu_alloc, flags) == 16, "vgpu_alloc");
_Static_assert(offsetof(struct vgpu_alloc, offset) == 24, "vgpu_alloc");
_Static_assert(sizeof(struct vgpu_free) == 8, "vgpu_free");
_Static_assert(sizeof(struct vgpu_ring) == 16, "vgpu_ring");
_Static_assert(offsetof(struct vgpu_ring, addr) == 8, "vgpu_ring");
_Static_assert(sizeof(struct vgpu_wait) == 16, "vgpu_wait");
_Static_assert(sizeof(struct vgpu_pin) == 24, "vgpu_pin");
_Static_assert(offsetof(struct vgpu_pin, flags) == 16, "vgpu_pin");
_Static_assert(sizeof(struct vgpu_gpus) == 16, "vgpu_gpus");
_Static_assert(offsetof(struct vgpu_gpus, len) == 8, "vgpu_gpus");

_Static_assert(VGPU_IOC_INFO == 0x80305640, "VGPU_IOC_INFO");
_Static_assert(VGPU_IOC_OPEN == 0xc0585641, "VGPU_IOC_OPEN");
_Static_assert(VGPU_IOC_ALLOC == 0xc0205642, "VGPU_IOC_ALLOC");
_Static_assert(VGPU_IOC_FREE == 0x40085643, "VGPU_IOC_FREE");
_Static_assert(VGPU_IOC_RING_CREATE == 0x40105644, "VGPU_IOC_RING_CREATE");
_Static_assert(VGPU_IOC_RING_DESTROY == 0x40105645, "VGPU_IOC_RING_DESTROY");
_Static_assert(VGPU_IOC_DOORBELL == 0x40045646, "VGPU_IOC_DOORBELL");
_Static_assert(VGPU_IOC_WAIT == 0xc0105647, "VGPU_IOC_WAIT");
_Static_assert(VGPU_IOC_GPUS == 0xc0105648, "VGPU_IOC_GPUS");
_Static_assert(VGPU_IOC_PIN == 0x40185649, "VGPU_IOC_PIN");
_Static_assert(VGPU_IOC_OPEN_GPUS == 0xc068564a, "VGPU_IOC_OPEN_GPUS");

#endif /* _UAPI_LAYOUT_H */
