// SPDX-License-Identifier: GPL-2.0
/*
 * The control queue: requests that the device answers in its own time.
 *
 * A request belongs to who made it and to the queue. Who made it may give up
 * when it is killed; the queue keeps the request until the device answers, and
 * then undoes what nobody wants: a session that was opened for nobody is closed.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>

#include "vgpu_drv.h"

/* A message starts anywhere in a page, so it may touch one page more. */
#define VGPU_MESSAGE_LEN_MAX \
	(sizeof(struct vgpu_wire_header) + sizeof(struct vgpu_wire_map) + \
	 VGPU_WIRE_RUNS_PER_MESSAGE_MAX * sizeof(struct vgpu_wire_run))
#define VGPU_SGS_MAX	(DIV_ROUND_UP(VGPU_MESSAGE_LEN_MAX, PAGE_SIZE) + 1)
/* A reply's start is much shorter than a page; the rest of a long one is apart. */
#define VGPU_REPLY_SGS_MAX \
	(2 + DIV_ROUND_UP(VGPU_WIRE_GPUS_LEN_MAX, PAGE_SIZE) + 1)

static struct vgpu_ctrl *to_ctrl(struct virtqueue *vq)
{
	struct vgpu_device *dev = vq->vdev->priv;

	return &dev->ctrl;
}

/**
 * vgpu_req_new - make a control request
 * @kind:	one of enum vgpu_wire_kind
 * @session:	the session it is about
 * @body_len:	bytes of its body; the caller fills in vgpu_req.body
 *
 * Context: process context, may sleep.
 * Return: the request, with one reference; NULL if there is no memory.
 */
struct vgpu_req *vgpu_req_new(u32 kind, u32 session, size_t body_len)
{
	struct vgpu_req *req;

	req = kvzalloc(struct_size(req, body, body_len), GFP_KERNEL_ACCOUNT);
	if (!req)
		return NULL;
	refcount_set(&req->ref, 1);
	INIT_LIST_HEAD(&req->link);
	init_completion(&req->done);
	req->header.kind = cpu_to_le32(kind);
	req->header.session = cpu_to_le32(session);
	req->message_len = sizeof(req->header) + body_len;
	req->reply_len = sizeof(req->reply.head);
	if (kind == VGPU_WIRE_SESSION_OPEN)
		req->reply_len = sizeof(req->reply);
	return req;
}

/**
 * vgpu_req_expect - make room for a long reply
 * @req: the request, not made yet
 * @len: bytes of the reply's body, VGPU_WIRE_GPUS_LEN_MAX at most
 *
 * Context: process context, may sleep.
 * Return: 0, or -ENOMEM if there is no memory.
 */
int vgpu_req_expect(struct vgpu_req *req, u32 len)
{
	/* Zeroed: a device that says it wrote more than it did shows nothing. */
	req->more = kvzalloc(len, GFP_KERNEL_ACCOUNT);
	if (!req->more)
		return -ENOMEM;
	req->more_len = len;
	return 0;
}

/**
 * vgpu_req_put - drop a reference to a request
 * @req: the request
 *
 * Context: any, except with a spinlock held in process context.
 */
void vgpu_req_put(struct vgpu_req *req)
{
	if (!refcount_dec_and_test(&req->ref))
		return;
	kvfree(req->more);
	kvfree(req);
}

/*
 * Describes memory from kvmalloc(), which need not be contiguous, in pieces
 * that are, behind the @used ones. Return: how many are used then.
 */
static unsigned int vgpu_sg_fill(struct scatterlist *sgs, unsigned int used,
				 void *buf, size_t len)
{
	while (len) {
		size_t piece = min_t(size_t, len, PAGE_SIZE - offset_in_page(buf));
		struct page *page = is_vmalloc_addr(buf) ? vmalloc_to_page(buf) :
							   virt_to_page(buf);

		sg_set_page(&sgs[used++], page, piece, offset_in_page(buf));
		buf += piece;
		len -= piece;
	}
	return used;
}

static int vgpu_ctrl_add(struct vgpu_ctrl *ctrl, struct vgpu_req *req)
{
	struct scatterlist out[VGPU_SGS_MAX], in[VGPU_REPLY_SGS_MAX];
	struct scatterlist *sgs[] = { out, in };
	unsigned int used;

	sg_init_table(out, ARRAY_SIZE(out));
	used = vgpu_sg_fill(out, 0, &req->header, req->message_len);
	sg_mark_end(&out[used - 1]);
	sg_init_table(in, ARRAY_SIZE(in));
	used = vgpu_sg_fill(in, 0, &req->reply, req->reply_len);
	used = vgpu_sg_fill(in, used, req->more, req->more_len);
	sg_mark_end(&in[used - 1]);
	return virtqueue_add_sgs(ctrl->vq, sgs, 1, 1, req, GFP_ATOMIC);
}

static void vgpu_ctrl_end(struct vgpu_req *req, int error,
			  struct list_head *ended)
{
	req->error = error;
	req->ended = true;
	list_move_tail(&req->link, ended);
}

/* Moves requests from the backlog to the device; true: it must be notified. */
static bool vgpu_ctrl_push(struct vgpu_ctrl *ctrl, struct list_head *ended)
{
	struct vgpu_req *req, *next;
	bool added = false;

	list_for_each_entry_safe(req, next, &ctrl->backlog, link) {
		int err = vgpu_ctrl_add(ctrl, req);

		/* What the device has now makes room when it is answered. */
		if ((err == -ENOSPC || err == -ENOMEM) &&
		    !list_empty(&ctrl->inflight))
			break;
		if (err) {
			vgpu_ctrl_end(req, -EIO, ended);
			continue;
		}
		list_move_tail(&req->link, &ctrl->inflight);
		added = true;
	}
	return added && virtqueue_kick_prepare(ctrl->vq);
}

/* Tells those who wait; outside of the lock, since it may free memory. */
static void vgpu_ctrl_tell(struct list_head *ended)
{
	struct vgpu_req *req, *next;

	list_for_each_entry_safe(req, next, ended, link) {
		list_del_init(&req->link);
		complete(&req->done);
		vgpu_req_put(req);
	}
}

/* A session was opened for a process that died meanwhile: close it. */
static void vgpu_req_become_close(struct vgpu_req *req)
{
	req->header.kind = cpu_to_le32(VGPU_WIRE_SESSION_CLOSE);
	req->header.session = req->opened.session;
	req->message_len = sizeof(req->header);
	req->reply_len = sizeof(req->reply.head);
}

/* The device may write the reply again at any time, so it is read once. */
static void vgpu_req_read_reply(struct vgpu_req *req, unsigned int len)
{
	req->status = VGPU_WIRE_HOST_ERROR;
	if (len < sizeof(req->reply.head))
		return;
	req->status = le32_to_cpu(READ_ONCE(req->reply.head.status));
	if (req->more)
		req->more_written = min_t(u32, len - sizeof(req->reply.head),
					  req->more_len);
	req->wait_s = le32_to_cpu(READ_ONCE(req->reply.head.wait_s));
	if (req->status != VGPU_WIRE_OK ||
	    req->reply_len == sizeof(req->reply.head))
		return;
	if (len < sizeof(req->reply)) {
		req->status = VGPU_WIRE_HOST_ERROR;
		return;
	}
	req->opened.session = READ_ONCE(req->reply.opened.session);
	req->opened.window = READ_ONCE(req->reply.opened.window);
}

static void vgpu_ctrl_answered(struct vgpu_ctrl *ctrl, struct vgpu_req *req,
			       unsigned int len, struct list_head *ended)
{
	bool open = req->header.kind == cpu_to_le32(VGPU_WIRE_SESSION_OPEN);

	vgpu_req_read_reply(req, len);
	if (req->orphan && open && req->status == VGPU_WIRE_OK) {
		vgpu_req_become_close(req);
		list_move_tail(&req->link, &ctrl->backlog);
	} else {
		vgpu_ctrl_end(req, 0, ended);
	}
}

/**
 * vgpu_ctrl_callback - the device has answered requests
 * @vq: the control queue
 *
 * Context: interrupt.
 */
void vgpu_ctrl_callback(struct virtqueue *vq)
{
	struct vgpu_ctrl *ctrl = to_ctrl(vq);
	struct vgpu_req *req;
	unsigned long flags;
	unsigned int len;
	LIST_HEAD(ended);
	bool notify, broken;

	spin_lock_irqsave(&ctrl->lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((req = virtqueue_get_buf(vq, &len)))
			vgpu_ctrl_answered(ctrl, req, len, &ended);
		broken = virtqueue_is_broken(vq);
	} while (!broken && !virtqueue_enable_cb(vq));
	notify = vgpu_ctrl_push(ctrl, &ended);
	spin_unlock_irqrestore(&ctrl->lock, flags);

	if (notify)
		virtqueue_notify(vq);
	/* What it has is its own until it is reset. */
	if (broken)
		vgpu_device_fail(vq->vdev->priv, "the control queue is corrupt");
	vgpu_ctrl_tell(&ended);
}

static int vgpu_ctrl_submit(struct vgpu_device *dev, struct vgpu_req *req)
{
	struct vgpu_ctrl *ctrl = &dev->ctrl;
	LIST_HEAD(ended);
	bool notify;

	rcu_read_lock();
	spin_lock_irq(&ctrl->lock);
	if (ctrl->stopped) {
		spin_unlock_irq(&ctrl->lock);
		rcu_read_unlock();
		return -ENODEV;
	}
	refcount_inc(&req->ref);
	list_add_tail(&req->link, &ctrl->backlog);
	notify = vgpu_ctrl_push(ctrl, &ended);
	vgpu_watch_start(dev);
	spin_unlock_irq(&ctrl->lock);
	if (notify)
		virtqueue_notify(ctrl->vq);
	rcu_read_unlock();
	vgpu_ctrl_tell(&ended);
	return 0;
}

/* Gives up waiting, unless the request has ended meanwhile. */
static bool vgpu_ctrl_abandon(struct vgpu_ctrl *ctrl, struct vgpu_req *req)
{
	bool orphan;

	spin_lock_irq(&ctrl->lock);
	orphan = !req->ended;
	req->orphan = orphan;
	spin_unlock_irq(&ctrl->lock);
	return orphan;
}

/**
 * vgpu_ctrl_call - make a request and wait for its end
 * @dev: the device
 * @req: the request; the caller keeps its reference
 *
 * Only a fatal signal ends the wait early. The device may then still work on
 * the request and read it.
 *
 * Context: process context, sleeps.
 * Return: 0 if the device answered: vgpu_req.status. -EINTR if the caller is
 * being killed, -ENODEV if the device is gone or was reset, -EIO if the queue
 * takes nothing.
 */
int vgpu_ctrl_call(struct vgpu_device *dev, struct vgpu_req *req)
{
	int err = vgpu_ctrl_submit(dev, req);

	if (err)
		return err;
	if (wait_for_completion_killable(&req->done) &&
	    vgpu_ctrl_abandon(&dev->ctrl, req))
		return -EINTR;
	req->answered = !req->error;
	return req->error;
}

/**
 * vgpu_ctrl_call_bounded - make a request, wait for a time, even when killed
 * @dev:	the device
 * @req:	the request; the caller keeps its reference
 * @timeout_s:	how long, in seconds
 *
 * Context: process context, sleeps.
 * Return: as vgpu_ctrl_call(), with -ETIMEDOUT in place of -EINTR.
 */
int vgpu_ctrl_call_bounded(struct vgpu_device *dev, struct vgpu_req *req,
			   unsigned int timeout_s)
{
	int err = vgpu_ctrl_submit(dev, req);

	if (err)
		return err;
	if (!wait_for_completion_timeout(&req->done, timeout_s * HZ) &&
	    vgpu_ctrl_abandon(&dev->ctrl, req))
		return -ETIMEDOUT;
	req->answered = !req->error;
	return req->error;
}

/**
 * vgpu_status_to_errno - what an ioctl returns for an answer of the device
 * @status: vgpu_req.status
 *
 * Context: any.
 * Return: 0 or -errno.
 */
int vgpu_status_to_errno(u32 status)
{
	switch (status) {
	case VGPU_WIRE_OK:
		return 0;
	case VGPU_WIRE_INVALID:
		return -EINVAL;
	case VGPU_WIRE_NOT_FOUND:
		return -ENOENT;
	case VGPU_WIRE_LIMIT:
		return -ENOSPC;
	case VGPU_WIRE_NO_WINDOW:
		return -EADDRNOTAVAIL;
	case VGPU_WIRE_TAKEN:
		return -EADDRINUSE;
	case VGPU_WIRE_NO_GPU:
	case VGPU_WIRE_NO_POOL:
	case VGPU_WIRE_LOST:
		return -ENODEV;
	case VGPU_WIRE_QUARANTINED:
		return -EACCES;
	default:
		return -EIO;
	}
}

/**
 * vgpu_ctrl_init - make a stopped control queue
 * @ctrl: the queue
 */
void vgpu_ctrl_init(struct vgpu_ctrl *ctrl)
{
	spin_lock_init(&ctrl->lock);
	ctrl->stopped = true;
	INIT_LIST_HEAD(&ctrl->backlog);
	INIT_LIST_HEAD(&ctrl->inflight);
}

/**
 * vgpu_ctrl_start - let requests be made
 * @ctrl: the queue, with its virtqueue set
 *
 * Context: process context.
 * Return: 0, or -EINVAL if the queue is too short for the longest message.
 */
int vgpu_ctrl_start(struct vgpu_ctrl *ctrl)
{
	if (virtqueue_get_vring_size(ctrl->vq) < VGPU_SGS_MAX + VGPU_REPLY_SGS_MAX)
		return -EINVAL;
	spin_lock_irq(&ctrl->lock);
	ctrl->stopped = false;
	spin_unlock_irq(&ctrl->lock);
	return 0;
}

/**
 * vgpu_ctrl_stop - let no more requests be made
 * @ctrl: the queue
 *
 * The caller then waits for an RCU grace period before it resets the device.
 *
 * Context: process context.
 */
void vgpu_ctrl_stop(struct vgpu_ctrl *ctrl)
{
	spin_lock_irq(&ctrl->lock);
	ctrl->stopped = true;
	spin_unlock_irq(&ctrl->lock);
}

/**
 * vgpu_ctrl_drain - end all requests with -ENODEV
 * @ctrl: the queue, stopped, of a device that has been reset
 *
 * Context: process context.
 */
void vgpu_ctrl_drain(struct vgpu_ctrl *ctrl)
{
	struct vgpu_req *req, *next;
	LIST_HEAD(ended);

	spin_lock_irq(&ctrl->lock);
	while (virtqueue_detach_unused_buf(ctrl->vq))
		;
	list_for_each_entry_safe(req, next, &ctrl->inflight, link)
		vgpu_ctrl_end(req, -ENODEV, &ended);
	list_for_each_entry_safe(req, next, &ctrl->backlog, link)
		vgpu_ctrl_end(req, -ENODEV, &ended);
	spin_unlock_irq(&ctrl->lock);
	vgpu_ctrl_tell(&ended);
}

/**
 * vgpu_ctrl_idle - whether no request is under way
 * @ctrl: the queue
 *
 * Context: process context.
 * Return: true if there is none.
 */
bool vgpu_ctrl_idle(struct vgpu_ctrl *ctrl)
{
	bool idle;

	spin_lock_irq(&ctrl->lock);
	idle = list_empty(&ctrl->inflight) && list_empty(&ctrl->backlog);
	spin_unlock_irq(&ctrl->lock);
	return idle;
}
