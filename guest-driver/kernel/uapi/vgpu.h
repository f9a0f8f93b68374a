/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR BSD-3-Clause */
/*
 * /dev/vgpu: what a program may ask of the virtio-vgpu driver.
 *
 * An open file is at most one session: one process' use of the GPU, served by
 * one executor on the host. It is the file's, not the process': whoever has a
 * descriptor of it can use it. Closing the last reference of the file
 * (descriptors and mappings) ends it and waits until the host uses none of its
 * memory, 30 s at most; memory that the host still uses then is not reused.
 *
 * The usual order: VGPU_IOC_INFO; reserve address space; VGPU_IOC_OPEN;
 * VGPU_IOC_ALLOC and mmap() of the session area, 64 KiB at the window's base,
 * before anything else; then buffers, and rings in them. Who wants some of the
 * VM's GPUs only asks VGPU_IOC_GPUS which there are, and opens the session with
 * VGPU_IOC_OPEN_GPUS.
 *
 * All structures have natural alignment, a size that is a multiple of 8 and one
 * layout for 32-bit and 64-bit programs. Reserved fields and unknown flags must
 * be zero, or the request fails with EINVAL. Unknown requests fail with ENOTTY.
 * Any request may be made by several threads at once; those that change the
 * session wait for each other.
 *
 * Errors that any request may give, beside its own:
 * EFAULT   the argument is not the caller's memory
 * ENOTCONN the file has no session; not from VGPU_IOC_INFO, VGPU_IOC_OPEN,
 *          VGPU_IOC_OPEN_GPUS and VGPU_IOC_GPUS
 * ENODEV   the device is gone (unplugged, unbound, or reset since its host died)
 *          or the session is lost (its executor died); for good
 * EIO      the host failed, or answered what makes no sense
 * ENOMEM   the kernel has no memory for the request itself
 * A fatal signal ends every wait; the request may then still take effect.
 *
 * Use O_CLOEXEC. A child of fork() does not inherit the mappings, unless they
 * were marked with MADV_DOFORK; it then keeps the session open.
 */
#ifndef _UAPI_VGPU_H
#define _UAPI_VGPU_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Grows when something is added; what is here does not change. */
#define VGPU_ABI_VERSION 4
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
	__aligned_u64 mapped_len_max;
	__aligned_u64 window_len;
	__aligned_u64 arena_len;
};

/**
 * struct vgpu_open - open the file's session
 * @windows_len: in: how many of @windows are set, from 1
 * @wait_s:      in: zero; out: seconds until a quarantine is over, if it ends by
 *               itself
 * @windows:     in: bases of windows that are free in this process, best first
 * @window:      out: base of the window that was chosen
 * @session:     out: the session's number
 * @status:      in: zero; out: how the host answered, 0 if it opened the session
 *               or was not asked: the numbers are the wire's
 *
 * A window is aligned to 2 MiB, and all of it lies below 2^47. Fails with EBUSY
 * if the file has or had a session, EADDRNOTAVAIL if no window suits the host,
 * ENODEV if the VM is mapped to no GPU, EACCES if it is quarantined, ENOSPC if a
 * limit is reached, EIO if the host failed; @status tells such apart. After a failure it may be tried
 * again, except that a device which broke its word stays at EIO.
 */
struct vgpu_open {
	__u32 windows_len;
	__u32 wait_s;
	__aligned_u64 windows[VGPU_WINDOWS_MAX];
	__aligned_u64 window;
	__u32 session;
	__u32 status;
};

/* GPUs that a session may be opened with, and bytes of a GPU's name. */
#define VGPU_GPUS_MAX 16
#define VGPU_GPU_NAME_LEN 64

/**
 * struct vgpu_open_gpus - open the file's session, with some of the VM's GPUs
 * @open:     as in VGPU_IOC_OPEN
 * @gpus:     in: where the GPUs' names lie, one after the other,
 *            VGPU_GPU_NAME_LEN bytes each, as VGPU_IOC_GPUS tells them ("uuid").
 *            Programs number the session's GPUs in this order
 * @gpus_len: in: how many there are, from 1; each may come once
 * @reserved: zero
 *
 * Fails as VGPU_IOC_OPEN does, and with ENOENT if one of them is none of the
 * VM's GPUs: they may have changed since they were told. A host that does not
 * know of this fails it with EINVAL.
 */
struct vgpu_open_gpus {
	struct vgpu_open open;
	__aligned_u64 gpus;
	__u32 gpus_len;
	__u32 reserved;
};

#define VGPU_BUF_REGISTER (1u << 0) /* pinned memory: the GPU reads and writes it */

/**
 * struct vgpu_alloc - allocate a buffer that the host maps at the same address
 * @addr:     in: where; page-aligned, inside the arena. The caller then maps it
 *            there (MAP_SHARED | MAP_FIXED)
 * @len:      in: bytes; a multiple of the page size
 * @flags:    in: VGPU_BUF_REGISTER or 0
 * @reserved: zero
 * @offset:   out: the offset to give to mmap() of this file
 *
 * The pages are zeroed. They stay the file's until VGPU_IOC_FREE or its close,
 * and until every user mapping is gone. They are charged to the caller's memory
 * cgroup, not to RLIMIT_MEMLOCK. Part of a buffer may be mapped, and anywhere:
 * the offset counts its bytes. Private mappings are refused.
 *
 * Fails with ENOMEM if there is no memory or it is broken into more runs than
 * the budget allows, EEXIST if a buffer lies there, ENOSPC if it is more than
 * the session may have mapped or the host refuses it.
 */
struct vgpu_alloc {
	__aligned_u64 addr;
	__aligned_u64 len;
	__u32 flags;
	__u32 reserved;
	__aligned_u64 offset;
};

/**
 * struct vgpu_pin - have the host map memory of the caller's own
 * @addr:     in: where it lies; page-aligned, outside the window. The host maps
 *            it at the same address
 * @len:      in: bytes; a multiple of the page size
 * @flags:    zero
 * @reserved: zero
 *
 * Private memory, and shared memory that is in no file or in one of tmpfs or
 * hugetlbfs. The pages stay what they are to the caller, and are pinned until
 * VGPU_IOC_FREE or the file's close, whatever becomes of the addresses. They
 * count as pinned by the caller (VmPin), not against RLIMIT_MEMLOCK, and against
 * what the session may have mapped. They cannot be mapped with mmap() of this
 * file. On the host they are what ranges of can be registered with CUDA.
 *
 * Fails with EFAULT if it is not the caller's to write, EOPNOTSUPP if it is of
 * another kind, EEXIST if any of it is a buffer already, ENOMEM if it is broken
 * into more runs than the budget allows, ENOSPC if it is more than the session
 * may have mapped or the host refuses it, EADDRINUSE if the host has something
 * else at that address.
 */
struct vgpu_pin {
	__aligned_u64 addr;
	__aligned_u64 len;
	__u32 flags;
	__u32 reserved;
};

/**
 * struct vgpu_free - give a buffer, or memory that was pinned, back
 * @addr: in: its address
 *
 * Returns once the host no longer uses the pages; existing user mappings stay
 * valid until unmapped. Fails with ENOENT if no buffer starts there, EINVAL if
 * the host cannot do without it: the session area, one with a ring in it, or
 * memory that is registered with CUDA, ENOSPC if it cannot just now: then it may
 * be tried again.
 */
struct vgpu_free {
	__aligned_u64 addr;
};

/**
 * struct vgpu_ring - start or stop the consumption of a ring
 * @ring:     in: its index
 * @reserved: zero
 * @addr:     in: where it lies, page-aligned, inside one buffer; unused when
 *            stopping
 */
struct vgpu_ring {
	__u32 ring;
	__u32 reserved;
	__aligned_u64 addr;
};

/**
 * struct vgpu_wait - sleep until the host says "look"
 * @seen:        in: the count of events when the caller last looked; out: the
 *               count now
 * @deadline_ns: in: absolute CLOCK_MONOTONIC time at which to return anyway, 0
 *               for none
 *
 * Returns 0 when the count differs from @seen. Fails with ETIME at the deadline
 * (@seen is set then, too), EINTR when a signal handler has run, even with
 * SA_RESTART, ENODEV when the device or the session is gone.
 *
 * poll() reports POLLIN while the count differs from the one that the last
 * VGPU_IOC_WAIT of this file set, nothing while there is no session, and
 * POLLHUP | POLLERR when device or session are gone.
 */
struct vgpu_wait {
	__aligned_u64 seen;
	__aligned_u64 deadline_ns;
};

/* Bytes that suffice for what VGPU_IOC_GPUS tells. */
#define VGPU_GPUS_LEN_MAX 21296

/**
 * struct vgpu_gpus - what the VM may know of its GPUs
 * @addr:     in: where to write it
 * @len:      in: bytes that there is room for; out: bytes that it has
 * @reserved: zero
 *
 * What is written is the body of the device's reply to GPUS, as the wire lays it
 * out: the VM's GPUs, its own memory on them and its own processes. The driver
 * passes it on as it is. The file needs no session, and gets none.
 *
 * Fails with EMSGSIZE if there is not enough room (@len is set then, too), EACCES
 * if the VM is quarantined, EINVAL if the device does not know the request.
 */
struct vgpu_gpus {
	__aligned_u64 addr;
	__u32 len;
	__u32 reserved;
};

/*
 * What the device offers; the same for every file, session or not.
 * Fails with nothing of its own.
 */
#define VGPU_IOC_INFO         _IOR('V', 0x40, struct vgpu_info)

/*
 * Opens the file's session: see struct vgpu_open. If it fails with EFAULT after
 * the fact, the session is open nevertheless.
 */
#define VGPU_IOC_OPEN         _IOWR('V', 0x41, struct vgpu_open)

/* Allocates a buffer: see struct vgpu_alloc. */
#define VGPU_IOC_ALLOC        _IOWR('V', 0x42, struct vgpu_alloc)

/* Gives a buffer back: see struct vgpu_free. */
#define VGPU_IOC_FREE         _IOW('V', 0x43, struct vgpu_free)

/*
 * Has the host consume a ring, which must be zero in memory, from its position
 * 0. Fails with EINVAL if the index is not below rings_max or in use, or @addr
 * is not page-aligned, ENOENT if no buffer holds all of the ring, ENOSPC if a
 * limit of the host is reached. Its buffer cannot be given back before
 * VGPU_IOC_RING_DESTROY.
 */
#define VGPU_IOC_RING_CREATE  _IOW('V', 0x44, struct vgpu_ring)

/*
 * Ends that; returns once the host no longer reads the ring. What was in it and
 * not yet read is not done. Fails with EINVAL if the index is not below
 * rings_max, ENOENT if there is no such ring.
 */
#define VGPU_IOC_RING_DESTROY _IOW('V', 0x45, struct vgpu_ring)

/*
 * Tells the host that the ring with this index has something in it. Neither
 * waits nor allocates. Fails with EINVAL if the index is not below rings_max; an
 * index without a ring does nothing.
 */
#define VGPU_IOC_DOORBELL     _IOW('V', 0x46, __u32)

/* Sleeps until there is something to see: see struct vgpu_wait. */
#define VGPU_IOC_WAIT         _IOWR('V', 0x47, struct vgpu_wait)

/* Tells of the VM's GPUs: see struct vgpu_gpus. Since ABI version 2. */
#define VGPU_IOC_GPUS         _IOWR('V', 0x48, struct vgpu_gpus)

/*
 * Has the host map memory of the caller's own: see struct vgpu_pin. Since ABI
 * version 3.
 */
#define VGPU_IOC_PIN          _IOW('V', 0x49, struct vgpu_pin)

/*
 * Opens the file's session with some of the VM's GPUs: see struct
 * vgpu_open_gpus, and VGPU_IOC_OPEN. Since ABI version 4.
 */
#define VGPU_IOC_OPEN_GPUS    _IOWR('V', 0x4a, struct vgpu_open_gpus)

#endif /* _UAPI_VGPU_H */
