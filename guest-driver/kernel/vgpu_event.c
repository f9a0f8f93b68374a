// SPDX-License-Identifier: GPL-2.0
/*
 * The queues that only say "look": doorbells to the device, events from it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>

#include "vgpu_drv.h"

static struct vgpu_device *to_device(struct virtqueue *vq)
{
	return vq->vdev->priv;
}

/* Puts a doorbell on the queue, which has a slot free. */
static bool vgpu_doorbells_put(struct vgpu_doorbells *doorbells, u32 session, u32 ring)
{
	struct vgpu_wire_doorbell *slot;
	struct scatterlist sg;

	slot = &doorbells->slots[doorbells->free[doorbells->free_len - 1]];
	slot->session = cpu_to_le32(session);
	slot->ring = cpu_to_le32(ring);
	sg_init_one(&sg, slot, sizeof(*slot));
	/* One element needs no memory, and there is room: this fails only for a broken queue. */
	if (virtqueue_add_outbuf(doorbells->vq, &sg, 1, slot, GFP_ATOMIC))
		return false;
	doorbells->free_len--;
	return true;
}

/* Takes back the slots that the device has read. */
static void vgpu_doorbells_reclaim(struct vgpu_doorbells *doorbells)
{
	struct vgpu_wire_doorbell *slot;
	unsigned int len;

	while ((slot = virtqueue_get_buf(doorbells->vq, &len))) {
		doorbells->free[doorbells->free_len++] = slot - doorbells->slots;
		doorbells->taken = true;
	}
}

/* Puts one pending doorbell of the first file on the queue. */
static bool vgpu_doorbells_send_one(struct vgpu_doorbells *doorbells)
{
	struct vgpu_file *file = list_first_entry(&doorbells->pending,
						  struct vgpu_file, doorbell_link);
	u32 ring = find_first_bit(file->doorbells, VGPU_WIRE_RINGS_MAX);

	if (!vgpu_doorbells_put(doorbells, file->session, ring))
		return false;
	__clear_bit(ring, file->doorbells);
	/* The next slot is another file's. */
	if (bitmap_empty(file->doorbells, VGPU_WIRE_RINGS_MAX))
		list_del_init(&file->doorbell_link);
	else
		list_move_tail(&file->doorbell_link, &doorbells->pending);
	return true;
}

/*
 * Takes back slots that the device has read and sends what is pending. While
 * something stays pending the device interrupts when it frees a slot.
 * True: it must be notified.
 */
static bool vgpu_doorbells_push(struct vgpu_doorbells *doorbells)
{
	bool added = false;

	do {
		virtqueue_disable_cb(doorbells->vq);
		vgpu_doorbells_reclaim(doorbells);
		while (!list_empty(&doorbells->pending) && doorbells->free_len) {
			if (!vgpu_doorbells_send_one(doorbells))
				return false;
			added = true;
		}
		if (list_empty(&doorbells->pending))
			break;
	} while (!virtqueue_enable_cb(doorbells->vq));
	return added && virtqueue_kick_prepare(doorbells->vq);
}

/**
 * vgpu_doorbell_ring - tell the device that a ring has something in it
 * @file: a file with a session
 * @ring: the ring, below vgpu_limits.rings_max
 *
 * Allocates nothing and does not wait. If the queue is full the doorbell is
 * sent as soon as the device has read one.
 *
 * Context: process context.
 * Return: 0, -ENODEV if the device is gone, -EIO if the queue is corrupt.
 */
int vgpu_doorbell_ring(struct vgpu_file *file, u32 ring)
{
	struct vgpu_doorbells *doorbells = &file->dev->doorbells;
	bool notify = false;
	int err = 0;

	rcu_read_lock();
	spin_lock_irq(&doorbells->lock);
	if (doorbells->stopped) {
		err = -ENODEV;
	} else if (virtqueue_is_broken(doorbells->vq)) {
		err = -EIO;
	} else {
		__set_bit(ring, file->doorbells);
		if (list_empty(&file->doorbell_link))
			list_add_tail(&file->doorbell_link, &doorbells->pending);
		notify = vgpu_doorbells_push(doorbells);
	}
	spin_unlock_irq(&doorbells->lock);
	if (notify)
		virtqueue_notify(doorbells->vq);
	rcu_read_unlock();
	if (err == -EIO)
		vgpu_device_fail(file->dev, "the doorbell queue is corrupt");
	return err;
}

/**
 * vgpu_doorbell_forget - drop a file's pending doorbells
 * @file: the file
 *
 * Context: process context.
 */
void vgpu_doorbell_forget(struct vgpu_file *file)
{
	spin_lock_irq(&file->dev->doorbells.lock);
	list_del_init(&file->doorbell_link);
	bitmap_zero(file->doorbells, VGPU_WIRE_RINGS_MAX);
	spin_unlock_irq(&file->dev->doorbells.lock);
}

/**
 * vgpu_doorbells_look - whether the device takes doorbells
 * @doorbells: the queue
 *
 * Rings one that names no session, so that the next look has one to go by.
 *
 * Context: process context.
 * Return: true if it took one since the last look, or there was none to take.
 */
bool vgpu_doorbells_look(struct vgpu_doorbells *doorbells)
{
	bool alive = true, notify = false;

	rcu_read_lock();
	spin_lock_irq(&doorbells->lock);
	if (!doorbells->stopped) {
		alive = doorbells->free_len == doorbells->len;
		vgpu_doorbells_reclaim(doorbells);
		alive |= doorbells->taken;
		doorbells->taken = false;
		if (doorbells->free_len && vgpu_doorbells_put(doorbells, 0, 0))
			notify = virtqueue_kick_prepare(doorbells->vq);
	}
	spin_unlock_irq(&doorbells->lock);
	if (notify)
		virtqueue_notify(doorbells->vq);
	rcu_read_unlock();
	return alive;
}

/**
 * vgpu_doorbells_callback - the device has read doorbells
 * @vq: the doorbell queue
 *
 * Comes now and then even when nobody asked for it.
 *
 * Context: interrupt.
 */
void vgpu_doorbells_callback(struct virtqueue *vq)
{
	struct vgpu_doorbells *doorbells = &to_device(vq)->doorbells;
	unsigned long flags;
	bool notify = false;

	spin_lock_irqsave(&doorbells->lock, flags);
	if (!doorbells->stopped)
		notify = vgpu_doorbells_push(doorbells);
	spin_unlock_irqrestore(&doorbells->lock, flags);
	if (notify)
		virtqueue_notify(vq);
}

/**
 * vgpu_doorbells_init - make a stopped doorbell queue
 * @doorbells: the queue
 */
void vgpu_doorbells_init(struct vgpu_doorbells *doorbells)
{
	spin_lock_init(&doorbells->lock);
	doorbells->stopped = true;
	INIT_LIST_HEAD(&doorbells->pending);
}

/**
 * vgpu_doorbells_start - let doorbells be rung
 * @doorbells: the queue, with its virtqueue set
 *
 * Context: process context, may sleep.
 * Return: 0 or -ENOMEM.
 */
int vgpu_doorbells_start(struct vgpu_doorbells *doorbells)
{
	unsigned int len = virtqueue_get_vring_size(doorbells->vq);

	doorbells->slots = kcalloc(len, sizeof(*doorbells->slots), GFP_KERNEL);
	doorbells->free = kcalloc(len, sizeof(*doorbells->free), GFP_KERNEL);
	if (!doorbells->slots || !doorbells->free) {
		vgpu_doorbells_drain(doorbells);
		return -ENOMEM;
	}
	for (unsigned int slot = 0; slot < len; slot++)
		doorbells->free[slot] = slot;
	doorbells->len = len;
	doorbells->free_len = len;
	doorbells->taken = false;
	virtqueue_disable_cb(doorbells->vq);

	spin_lock_irq(&doorbells->lock);
	doorbells->stopped = false;
	spin_unlock_irq(&doorbells->lock);
	return 0;
}

/**
 * vgpu_doorbells_stop - let no more doorbells be rung
 * @doorbells: the queue
 *
 * The caller then waits for an RCU grace period before it resets the device.
 *
 * Context: process context.
 */
void vgpu_doorbells_stop(struct vgpu_doorbells *doorbells)
{
	spin_lock_irq(&doorbells->lock);
	doorbells->stopped = true;
	spin_unlock_irq(&doorbells->lock);
}

/**
 * vgpu_doorbells_drain - free what vgpu_doorbells_start() made
 * @doorbells: the queue, stopped, of a device that has been reset
 *
 * Context: process context.
 */
void vgpu_doorbells_drain(struct vgpu_doorbells *doorbells)
{
	while (virtqueue_detach_unused_buf(doorbells->vq))
		;
	kfree(doorbells->slots);
	kfree(doorbells->free);
	doorbells->slots = NULL;
	doorbells->free = NULL;
	doorbells->len = 0;
	doorbells->free_len = 0;
}

static int vgpu_events_give(struct vgpu_events *events,
			    struct vgpu_wire_event *slot)
{
	struct scatterlist sg;

	sg_init_one(&sg, slot, sizeof(*slot));
	return virtqueue_add_inbuf(events->vq, &sg, 1, slot, GFP_ATOMIC);
}

static void vgpu_file_notice(struct vgpu_file *file)
{
	atomic64_inc(&file->events);
	wake_up_all(&file->wait);
}

static void vgpu_events_deliver(struct vgpu_device *dev, u32 session)
{
	struct vgpu_file *file;
	unsigned long index;

	/* A file is erased under this lock before it is freed. */
	xa_lock(&dev->sessions);
	if (session) {
		file = xa_load(&dev->sessions, session);
		if (file)
			vgpu_file_notice(file);
	} else {
		xa_for_each(&dev->sessions, index, file)
			vgpu_file_notice(file);
	}
	xa_unlock(&dev->sessions);
}

/**
 * vgpu_events_callback - the device says "look"
 * @vq: the event queue
 *
 * Context: interrupt.
 */
void vgpu_events_callback(struct virtqueue *vq)
{
	struct vgpu_device *dev = to_device(vq);
	struct vgpu_events *events = &dev->events;
	struct vgpu_wire_event *slot;
	bool notify = false, broken;
	unsigned long flags;
	unsigned int len;

	spin_lock_irqsave(&events->lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((slot = virtqueue_get_buf(vq, &len))) {
			if (len >= sizeof(*slot))
				vgpu_events_deliver(dev, le32_to_cpu(READ_ONCE(slot->session)));
			if (!vgpu_events_give(events, slot))
				notify = true;
		}
		broken = virtqueue_is_broken(vq);
	} while (!broken && !virtqueue_enable_cb(vq));
	notify = notify && virtqueue_kick_prepare(vq);
	spin_unlock_irqrestore(&events->lock, flags);
	if (notify)
		virtqueue_notify(vq);
	/* Whoever waits would never be woken. */
	if (broken)
		vgpu_device_fail(dev, "the event queue is corrupt");
}

/**
 * vgpu_events_init - make an event queue
 * @events: the queue
 */
void vgpu_events_init(struct vgpu_events *events)
{
	spin_lock_init(&events->lock);
}

/**
 * vgpu_events_start - let the device say "look"
 * @events: the queue, with its virtqueue set, of a device that is ready
 *
 * Context: process context.
 * Return: 0 or -errno.
 */
int vgpu_events_start(struct vgpu_events *events)
{
	unsigned int len = min_t(unsigned int, VGPU_EVENTS_MAX,
				 virtqueue_get_vring_size(events->vq));
	int err = 0;

	spin_lock_irq(&events->lock);
	for (unsigned int slot = 0; slot < len && !err; slot++)
		err = vgpu_events_give(events, &events->slots[slot]);
	if (!err)
		virtqueue_kick(events->vq);
	spin_unlock_irq(&events->lock);
	return err;
}

/**
 * vgpu_events_drain - take the buffers back
 * @events: the queue of a device that has been reset
 *
 * Context: process context.
 */
void vgpu_events_drain(struct vgpu_events *events)
{
	while (virtqueue_detach_unused_buf(events->vq))
		;
}
