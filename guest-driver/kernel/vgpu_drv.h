/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Driver of the virtio-vgpu device: what its parts share.
 *
 * Life of the objects
 *	A struct vgpu_device lives until the device is gone and its last file
 *	is closed. A struct vgpu_file is one open file. A struct vgpu_buf is
 *	memory that the host was told about; its pages are given back only when
 *	the host has confirmed that it no longer uses them, or after a reset of
 *	the device.
 *
 * Locks, outermost first
 *	vgpu_file.lock (mutex): orders the control requests of a session. Never
 *	held while user memory is accessed, and never taken by mmap.
 *	mmap_lock of the caller's address space.
 *	vgpu_file.bufs_lock (mutex): the file's buffers. Held only briefly.
 *	vgpu_ctrl.lock, vgpu_doorbells.lock, vgpu_events.lock (spinlocks, taken
 *	in the interrupt handler): one for each virtqueue.
 *	vgpu_device.sessions' own lock (taken in the interrupt handler).
 *
 * Removal
 *	Whoever touches a virtqueue does so inside an RCU read-side section, in
 *	which it found the queue's @stopped false under the queue's lock. The
 *	queues go away only after a grace period.
 *
 * A device that fails
 *	While there is anything that the host owes an answer, a work item looks
 *	now and then whether it still takes doorbells. If it does not, asks to be
 *	reset or corrupts a queue, the work item resets it: files then see ENODEV,
 *	as after a removal, and the pages are the guest's again. The work item is
 *	queued only under vgpu_ctrl.lock with the control queue not stopped, so it
 *	can be cancelled for good once that is stopped.
 */
#ifndef _VGPU_DRV_H
#define _VGPU_DRV_H

#include <linux/completion.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "uapi/vgpu.h"
#include "vgpu_wire.h"

/* The most page runs of a session, whatever the device allows. */
#define VGPU_RUNS_MAX		(1U << 20)

/* How long closing a file waits for the host to confirm. */
#define VGPU_CLOSE_TIMEOUT_S	30

/**
 * struct vgpu_limits - the device's configuration, checked
 * @sessions_max:	sessions the VM may have open
 * @rings_max:		rings of a session
 * @runs_max:		page runs a session may have mapped
 * @runs_per_message_max: page runs in one MAP message
 * @mapped_len_max:	bytes a session may have mapped
 * @window_len:		bytes of the address window
 * @arena_len:		bytes of the arena at the window's start
 */
struct vgpu_limits {
	u32 sessions_max;
	u32 rings_max;
	u32 runs_max;
	u32 runs_per_message_max;
	u64 mapped_len_max;
	u64 window_len;
	u64 arena_len;
};

/**
 * struct vgpu_ctrl - the control queue
 * @lock:	protects everything here and the state of the requests
 * @vq:		the virtqueue
 * @stopped:	no request may be made
 * @backlog:	requests for which the queue has no room yet, in order
 * @inflight:	requests that the device has
 */
struct vgpu_ctrl {
	spinlock_t lock;
	struct virtqueue *vq;
	bool stopped;
	struct list_head backlog;
	struct list_head inflight;
};

/**
 * struct vgpu_doorbells - the doorbell queue
 * @lock:	protects everything here and the files' pending doorbells
 * @vq:		the virtqueue
 * @stopped:	no doorbell may be rung
 * @slots:	messages, as many as the queue holds
 * @len:	how many @slots there are
 * @free:	indices into @slots that are not on the queue
 * @free_len:	how many they are
 * @taken:	the device took one since vgpu_doorbells_look() last looked
 * @pending:	files with doorbells that await a slot
 */
struct vgpu_doorbells {
	spinlock_t lock;
	struct virtqueue *vq;
	bool stopped;
	struct vgpu_wire_doorbell *slots;
	unsigned int len;
	u16 *free;
	unsigned int free_len;
	bool taken;
	struct list_head pending;
};

#define VGPU_EVENTS_MAX		64

/**
 * struct vgpu_events - the event queue
 * @lock:	protects the virtqueue
 * @vq:		the virtqueue
 * @slots:	messages for the device to write
 */
struct vgpu_events {
	spinlock_t lock;
	struct virtqueue *vq;
	struct vgpu_wire_event slots[VGPU_EVENTS_MAX];
};

/**
 * struct vgpu_device - a virtio-vgpu device
 * @ref:	one for the bound driver, one for each open file
 * @vdev:	the virtio device; valid while the driver is bound
 * @misc:	/dev/vgpu
 * @limits:	what the device offers
 * @ctrl:	control queue
 * @doorbells:	doorbell queue
 * @events:	event queue
 * @running:	the queues exist; only for probe, remove, suspend and shutdown
 * @gone:	the device was removed or shut down; set before files are woken
 * @broken:	the host broke its word; no session is opened any more
 * @failed:	the device cannot go on and is about to be reset
 * @watch:	looks whether the device lives, and resets it if not
 * @missed:	looks in a row in which it did not. The work item's own
 * @reset_done:	completed when the removed device has been reset: the host has
 *		nothing of the guest any more
 * @sessions:	files with a session, by its number
 * @files_lock:	protects @files
 * @files:	all open files
 * @orphans_lock: protects @orphans
 * @orphans:	buffers of closed files that the host never confirmed
 */
struct vgpu_device {
	struct kref ref;
	struct virtio_device *vdev;
	struct miscdevice misc;
	struct vgpu_limits limits;
	struct vgpu_ctrl ctrl;
	struct vgpu_doorbells doorbells;
	struct vgpu_events events;
	bool running;
	bool gone;
	bool broken;
	bool failed;
	struct delayed_work watch;
	unsigned int missed;
	struct completion reset_done;
	struct xarray sessions;
	spinlock_t files_lock;
	struct list_head files;
	struct mutex orphans_lock;
	struct list_head orphans;
};

/**
 * struct vgpu_file - an open /dev/vgpu
 * @dev:	the device, referenced
 * @link:	in vgpu_device.files
 * @lock:	orders control requests
 * @status:	0 while the session is open; -ENOTCONN before, -ENODEV when it
 *		is lost. Written under @lock, read anywhere
 * @session:	its number, 0 for none; fixed once @status has been 0
 * @window:	base of its address window
 * @close:	the request that will close it, made beforehand
 * @bufs_lock:	protects @bufs, @runs and @mapped_len
 * @bufs:	buffers by address
 * @runs:	page runs that they have
 * @mapped_len:	bytes that they have
 * @wait:	woken at events and at the end of session or device
 * @events:	count of events
 * @seen:	the count that VGPU_IOC_WAIT last returned
 * @doorbell_link: in vgpu_doorbells.pending
 * @doorbells:	rings whose doorbell awaits a slot
 */
struct vgpu_file {
	struct vgpu_device *dev;
	struct list_head link;
	struct mutex lock;
	int status;
	u32 session;
	u64 window;
	struct vgpu_req *close;
	struct mutex bufs_lock;
	struct rb_root bufs;
	u32 runs;
	u64 mapped_len;
	wait_queue_head_t wait;
	atomic64_t events;
	atomic64_t seen;
	struct list_head doorbell_link;
	DECLARE_BITMAP(doorbells, VGPU_WIRE_RINGS_MAX);
};

/**
 * struct vgpu_req - a control request
 * @ref:	one for who made it, one for the control queue
 * @link:	in vgpu_ctrl.backlog or .inflight, or on its way to be freed
 * @done:	completed when the request has ended
 * @ended:	it has. Set under vgpu_ctrl.lock
 * @orphan:	nobody waits any more. Set under vgpu_ctrl.lock
 * @answered:	who made the request got the device's answer. Its own
 * @error:	0 if the device answered, else -errno
 * @status:	the answer, one of enum vgpu_wire_status
 * @wait_s:	what came with it
 * @opened:	the body of the answer to a SESSION_OPEN that succeeded
 * @reply_len:	bytes of @reply that the device may write
 * @reply:	written by the device: read once, when it has answered
 * @reply.head:	start of every reply
 * @reply.opened: body of a reply to SESSION_OPEN
 * @more:	room for the body of a long reply, or NULL. Written by the device
 * @more_len:	bytes of @more
 * @more_written: how many of them a reply that says OK has
 * @message_len: bytes of the message
 * @header:	start of the message
 * @body:	the rest of the message
 */
struct vgpu_req {
	refcount_t ref;
	struct list_head link;
	struct completion done;
	bool ended;
	bool orphan;
	bool answered;
	int error;
	u32 status;
	u32 wait_s;
	struct vgpu_wire_session_opened opened;
	u32 reply_len;
	struct {
		struct vgpu_wire_reply head;
		struct vgpu_wire_session_opened opened;
	} reply;
	void *more;
	u32 more_len;
	u32 more_written;
	u32 message_len;
	struct vgpu_wire_header header __aligned(8);
	u8 body[] __aligned(8);
};

static_assert(offsetof(struct vgpu_req, body) ==
	      offsetof(struct vgpu_req, header) + sizeof(struct vgpu_wire_header));

/* vgpu_main.c */
void vgpu_device_put(struct vgpu_device *dev);
void vgpu_device_break(struct vgpu_device *dev, const char *why);
void vgpu_device_fail(struct vgpu_device *dev, const char *why);
void vgpu_watch_start(struct vgpu_device *dev);

/* vgpu_ctrl.c */
struct vgpu_req *vgpu_req_new(u32 kind, u32 session, size_t body_len);
int vgpu_req_expect(struct vgpu_req *req, u32 len);
void vgpu_req_put(struct vgpu_req *req);
int vgpu_ctrl_call(struct vgpu_device *dev, struct vgpu_req *req);
int vgpu_ctrl_call_bounded(struct vgpu_device *dev, struct vgpu_req *req,
			   unsigned int timeout_s);
int vgpu_status_to_errno(u32 status);
void vgpu_ctrl_init(struct vgpu_ctrl *ctrl);
int vgpu_ctrl_start(struct vgpu_ctrl *ctrl);
void vgpu_ctrl_stop(struct vgpu_ctrl *ctrl);
void vgpu_ctrl_drain(struct vgpu_ctrl *ctrl);
bool vgpu_ctrl_idle(struct vgpu_ctrl *ctrl);
void vgpu_ctrl_callback(struct virtqueue *vq);

/* vgpu_file.c */
extern const struct file_operations vgpu_fops;
int vgpu_file_status(struct vgpu_file *file);
int vgpu_file_call(struct vgpu_file *file, struct vgpu_req *req);
void vgpu_file_wake_all(struct vgpu_device *dev);

/* vgpu_buf.c */
int vgpu_buf_alloc(struct vgpu_file *file, u64 addr, u64 len, u32 flags);
int vgpu_buf_pin(struct vgpu_file *file, u64 addr, u64 len);
int vgpu_buf_free(struct vgpu_file *file, u64 addr);
int vgpu_buf_mmap(struct vgpu_file *file, struct vm_area_struct *vma);
void vgpu_buf_drop_all(struct vgpu_file *file);
void vgpu_buf_orphan_all(struct vgpu_file *file);
void vgpu_buf_drop_orphans(struct vgpu_device *dev);

/* vgpu_event.c */
int vgpu_doorbell_ring(struct vgpu_file *file, u32 ring);
void vgpu_doorbell_forget(struct vgpu_file *file);
bool vgpu_doorbells_look(struct vgpu_doorbells *doorbells);
void vgpu_doorbells_init(struct vgpu_doorbells *doorbells);
int vgpu_doorbells_start(struct vgpu_doorbells *doorbells);
void vgpu_doorbells_stop(struct vgpu_doorbells *doorbells);
void vgpu_doorbells_drain(struct vgpu_doorbells *doorbells);
void vgpu_doorbells_callback(struct virtqueue *vq);
void vgpu_events_init(struct vgpu_events *events);
int vgpu_events_start(struct vgpu_events *events);
void vgpu_events_drain(struct vgpu_events *events);
void vgpu_events_callback(struct virtqueue *vq);

#endif /* _VGPU_DRV_H */
