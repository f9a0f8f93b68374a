/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the virtio-vgpu device and its driver say to each other. Everything is
 * little endian. The ioctl ABI is elsewhere: uapi/vgpu.h.
 *
 * Queue 0, control: a readable header and body, then a writable reply and
 * body. Requests of one session complete in the order they were made.
 * Queue 1, doorbell: one readable struct vgpu_wire_doorbell.
 * Queue 2, event: one writable struct vgpu_wire_event.
 */
#ifndef _VGPU_WIRE_H
#define _VGPU_WIRE_H

#include <linux/build_bug.h>
#include <linux/types.h>

#define VGPU_WIRE_VIRTIO_ID	21
#define VGPU_WIRE_MAGIC		0x55504756	/* "VGPU" */
#define VGPU_WIRE_VERSION	1

#define VGPU_WIRE_WINDOWS_MAX	8
#define VGPU_WIRE_NAME_LEN	32
#define VGPU_WIRE_RINGS_MAX	64
#define VGPU_WIRE_RUNS_PER_MESSAGE_MAX	2048
#define VGPU_WIRE_PAGE_LEN	4096
#define VGPU_WIRE_GPUS_LEN_MAX	21296
#define VGPU_WIRE_GPUS_MAX	16
#define VGPU_WIRE_GPU_NAME_LEN	64
#define VGPU_WIRE_WINDOW_ALIGN	(2ULL << 20)
#define VGPU_WIRE_WINDOW_END	(1ULL << 47)

enum vgpu_wire_queue {
	VGPU_WIRE_QUEUE_CONTROL,
	VGPU_WIRE_QUEUE_DOORBELL,
	VGPU_WIRE_QUEUE_EVENT,
	VGPU_WIRE_QUEUES
};

/**
 * struct vgpu_wire_config - the device's configuration space, read-only
 * @magic:		VGPU_WIRE_MAGIC
 * @version:		VGPU_WIRE_VERSION
 * @sessions_max:	sessions the VM may have open
 * @rings_max:		rings of a session
 * @runs_max:		page runs a session may have mapped
 * @runs_per_message_max: page runs in one MAP message
 * @mapped_len_max:	bytes a session may have mapped
 * @window_len:		bytes of the address window
 * @arena_len:		bytes of the arena at the window's start
 */
struct vgpu_wire_config {
	__le32 magic;
	__le32 version;
	__le32 sessions_max;
	__le32 rings_max;
	__le32 runs_max;
	__le32 runs_per_message_max;
	__le64 mapped_len_max;
	__le64 window_len;
	__le64 arena_len;
};

/* What a control request asks for: its body and the body of its reply. */
enum vgpu_wire_kind {
	VGPU_WIRE_SESSION_OPEN = 1,	/* session_open, session_opened */
	VGPU_WIRE_SESSION_CLOSE,	/* none, none */
	VGPU_WIRE_MAP,			/* map and its runs, none */
	VGPU_WIRE_UNMAP,		/* unmap, none */
	VGPU_WIRE_RING_CREATE,		/* ring_create, none */
	VGPU_WIRE_RING_DESTROY,		/* ring_destroy, none */
	VGPU_WIRE_GPUS			/* none, bytes for the program that asks */
};

/* How a control request ended. Any other number means HOST_ERROR. */
enum vgpu_wire_status {
	VGPU_WIRE_OK,
	VGPU_WIRE_INVALID,
	VGPU_WIRE_NOT_FOUND,
	VGPU_WIRE_LIMIT,
	VGPU_WIRE_NO_WINDOW,
	VGPU_WIRE_NO_GPU,
	VGPU_WIRE_QUARANTINED,
	VGPU_WIRE_LOST,
	VGPU_WIRE_HOST_ERROR,
	VGPU_WIRE_NO_POOL,
	VGPU_WIRE_TAKEN,
	VGPU_WIRE_NO_SCHEDULER
};

struct vgpu_wire_header {
	__le32 kind;
	__le32 session;
};

/**
 * struct vgpu_wire_reply - starts every reply
 * @status:	one of enum vgpu_wire_status
 * @wait_s:	with QUARANTINED: seconds until that is over, 0 if not known
 */
struct vgpu_wire_reply {
	__le32 status;
	__le32 wait_s;
};

/**
 * struct vgpu_wire_session_open - open a session
 * @pid:	process id in the guest
 * @windows_len: how many of @windows are set, from 1
 * @windows:	bases of windows that are free in the process, best first
 * @name:	the program's
 * @gpus:	names of the GPUs that it is to have, VGPU_WIRE_GPUS_MAX at
 *		most; without any it has all of the VM's
 */
struct vgpu_wire_session_open {
	__le32 pid;
	__le32 windows_len;
	__le64 windows[VGPU_WIRE_WINDOWS_MAX];
	char name[VGPU_WIRE_NAME_LEN];
	char gpus[][VGPU_WIRE_GPU_NAME_LEN];
};

struct vgpu_wire_session_opened {
	__le32 session;
	__le32 reserved;
	__le64 window;
};

struct vgpu_wire_run {
	__le64 gpa;
	__le64 len;
};

#define VGPU_WIRE_MAP_REGISTER	1
#define VGPU_WIRE_MAP_PROGRAM	2

/**
 * struct vgpu_wire_map - map runs of guest-physical pages at one address
 * @addr:	address in the guest process and on the host
 * @len:	bytes of the whole mapping
 * @offset:	bytes of it that earlier messages covered
 * @flags:	VGPU_WIRE_MAP_REGISTER, VGPU_WIRE_MAP_PROGRAM or 0
 * @runs_len:	how many of @runs there are, from 1
 * @runs:	the pages, one run after the other
 */
struct vgpu_wire_map {
	__le64 addr;
	__le64 len;
	__le64 offset;
	__le32 flags;
	__le32 runs_len;
	struct vgpu_wire_run runs[];
};

struct vgpu_wire_unmap {
	__le64 addr;
};

struct vgpu_wire_ring_create {
	__le32 ring;
	__le32 reserved;
	__le64 addr;
};

struct vgpu_wire_ring_destroy {
	__le32 ring;
	__le32 reserved;
};

struct vgpu_wire_doorbell {
	__le32 session;
	__le32 ring;
};

/* "Look": @session is 0 for all. */
struct vgpu_wire_event {
	__le32 session;
	__le32 reserved;
};

static_assert(sizeof(struct vgpu_wire_config) == 48);
static_assert(sizeof(struct vgpu_wire_header) == 8);
static_assert(sizeof(struct vgpu_wire_reply) == 8);
static_assert(sizeof(struct vgpu_wire_session_open) == 104);
static_assert(sizeof(struct vgpu_wire_session_opened) == 16);
static_assert(sizeof(struct vgpu_wire_run) == 16);
static_assert(sizeof(struct vgpu_wire_map) == 32);
static_assert(sizeof(struct vgpu_wire_unmap) == 8);
static_assert(sizeof(struct vgpu_wire_ring_create) == 16);
static_assert(sizeof(struct vgpu_wire_ring_destroy) == 8);
static_assert(sizeof(struct vgpu_wire_doorbell) == 8);
static_assert(sizeof(struct vgpu_wire_event) == 8);

#endif /* _VGPU_WIRE_H */
