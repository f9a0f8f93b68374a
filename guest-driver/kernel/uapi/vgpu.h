/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR BSD-3-Clause */
/*
 * /dev/vgpu: what a program may ask of the virtio-vgpu driver.
 *
 * An open file is at most one session: one process' use of the GPU, served by one executor on the host.
 * Closing the last reference of the file ends it. All structures have natural alignment and a size that is a
 * multiple of 8; reserved fields must be zero. Unknown requests fail with ENOTTY.
 */
#ifndef _UAPI_VGPU_H
#define _UAPI_VGPU_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define VGPU_ABI_VERSION 1
#define VGPU_WINDOWS_MAX 8

/**
 * struct vgpu_info - what the device offers
 * @abi_version:  VGPU_ABI_VERSION of the driver
 * @wire_version: version of the wire that the device speaks
 * @sessions_max: sessions the VM may have open
 * @rings_max:    rings of a session
 * @runs_max:     scattered page runs a session may have mapped
 * @page_len:     granularity of buffers, in bytes
 * @mapped_len_max: bytes a session may have mapped
 * @window_len:   bytes of the address window
 * @arena_len:    bytes at its start that hold buffers
 */
struct vgpu_info {
	__u32 abi_version;
	__u32 wire_version;
	__u32 sessions_max;
	__u32 rings_max;
	__u32 runs_max;
	__u32 page_len;
	__u64 mapped_len_max;
	__u64 window_len;
	__u64 arena_len;
};

/**
 * struct vgpu_open - open the file's session
 * @windows_len: in: how many of @windows are set, from 1
 * @reserved:    zero
 * @windows:     in: bases of windows that are free in this process, best first
 * @window:      out: base of the window that was chosen
 * @session:     out: the session's number
 * @reserved2:   zero
 *
 * Fails with EBUSY if the file has a session, EADDRNOTAVAIL if no window suits the host, ENODEV if the VM is
 * mapped to no GPU, EACCES if it is quarantined, ENOSPC if a limit is reached, EIO if the host failed.
 */
struct vgpu_open {
	__u32 windows_len;
	__u32 reserved;
	__u64 windows[VGPU_WINDOWS_MAX];
	__u64 window;
	__u32 session;
	__u32 reserved2;
};

#define VGPU_BUF_REGISTER (1u << 0) /* the GPU reads and writes it: pinned memory */

/**
 * struct vgpu_alloc - allocate a buffer that the host maps at the same address
 * @addr:     in: where; page-aligned, inside the arena. The caller then maps it there (MAP_SHARED|MAP_FIXED)
 * @len:      in: bytes; a multiple of the page size
 * @flags:    in: VGPU_BUF_REGISTER or 0
 * @reserved: zero
 * @offset:   out: the offset to give to mmap() of this file
 *
 * The pages stay the file's until VGPU_IOC_FREE or its close, and every user mapping is gone; they are zeroed.
 * Fails with ENOMEM if there is no memory or it is broken into more runs than the budget allows, ENOSPC if the
 * host refuses it.
 */
struct vgpu_alloc {
	__u64 addr;
	__u64 len;
	__u32 flags;
	__u32 reserved;
	__u64 offset;
};

/**
 * struct vgpu_free - give a buffer back
 * @addr: in: its address
 *
 * Returns once the host no longer uses the pages; existing user mappings stay valid until unmapped.
 */
struct vgpu_free {
	__u64 addr;
};

/**
 * struct vgpu_ring - start or stop the consumption of a ring
 * @ring:     in: its index
 * @reserved: zero
 * @addr:     in: where it lies, inside one buffer; unused when stopping
 */
struct vgpu_ring {
	__u32 ring;
	__u32 reserved;
	__u64 addr;
};

/**
 * struct vgpu_wait - sleep until the host says "look"
 * @seen:        in: the count of events when the caller last looked; out: the count now
 * @deadline_ns: in: absolute CLOCK_MONOTONIC time at which to return anyway, 0 for none
 *
 * Returns 0 when the count differs from @seen, ETIME at the deadline, EINTR on a signal, ENODEV when the
 * device or the session is gone. poll() reports POLLIN while the count differs from the one that the last
 * VGPU_IOC_WAIT of this file returned, POLLHUP|POLLERR when device or session are gone.
 */
struct vgpu_wait {
	__u64 seen;
	__u64 deadline_ns;
};

#define VGPU_IOC_INFO         _IOR('V', 0x40, struct vgpu_info)
#define VGPU_IOC_OPEN         _IOWR('V', 0x41, struct vgpu_open)
#define VGPU_IOC_ALLOC        _IOWR('V', 0x42, struct vgpu_alloc)
#define VGPU_IOC_FREE         _IOW('V', 0x43, struct vgpu_free)
#define VGPU_IOC_RING_CREATE  _IOW('V', 0x44, struct vgpu_ring)
#define VGPU_IOC_RING_DESTROY _IOW('V', 0x45, struct vgpu_ring)
#define VGPU_IOC_DOORBELL     _IOW('V', 0x46, __u32)
#define VGPU_IOC_WAIT         _IOWR('V', 0x47, struct vgpu_wait)

#endif /* _UAPI_VGPU_H */
