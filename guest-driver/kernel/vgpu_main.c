// SPDX-License-Identifier: GPL-2.0
/*
 * Driver of the virtio-vgpu device: module, probe and removal.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/cc_platform.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/virtio_config.h>

#include "vgpu_drv.h"

static unsigned int virtio_id = VGPU_WIRE_VIRTIO_ID;
module_param(virtio_id, uint, 0444);
MODULE_PARM_DESC(virtio_id, "virtio device id to drive");

static unsigned int watch_s = 10;
module_param(watch_s, uint, 0444);
MODULE_PARM_DESC(watch_s, "seconds between looks at whether the host is there; 0: none (default: 10)");

/* So many looks in a row find nothing before the host counts as dead. */
#define VGPU_MISSED_MAX	3

/* There is one /dev/vgpu, so one device at a time can be bound. */
static atomic_t vgpu_bound = ATOMIC_INIT(0);

static void vgpu_device_release(struct kref *ref)
{
	struct vgpu_device *dev = container_of(ref, struct vgpu_device, ref);

	xa_destroy(&dev->sessions);
	kfree(dev);
}

/**
 * vgpu_device_put - drop a reference to a device
 * @dev: the device
 *
 * Context: process context.
 */
void vgpu_device_put(struct vgpu_device *dev)
{
	kref_put(&dev->ref, vgpu_device_release);
}

/**
 * vgpu_device_break - open no more sessions on a device
 * @dev: the device
 * @why: what it did wrong
 *
 * Sessions that are open go on as long as it answers.
 *
 * Context: any.
 */
void vgpu_device_break(struct vgpu_device *dev, const char *why)
{
	if (!xchg(&dev->broken, true))
		pr_err("the device is broken: %s\n", why);
}

/**
 * vgpu_watch_start - see to it that a dead host is noticed
 * @dev: the device
 *
 * Context: vgpu_ctrl.lock held, the control queue not stopped.
 */
void vgpu_watch_start(struct vgpu_device *dev)
{
	lockdep_assert_held(&dev->ctrl.lock);
	if (watch_s)
		queue_delayed_work(system_freezable_wq, &dev->watch,
				   min(watch_s, 3600U) * HZ);
}

/**
 * vgpu_device_fail - reset a device that cannot go on
 * @dev: the device
 * @why: what it did wrong
 *
 * Files see ENODEV soon after.
 *
 * Context: any, without vgpu_ctrl.lock.
 */
void vgpu_device_fail(struct vgpu_device *dev, const char *why)
{
	unsigned long flags;

	if (!xchg(&dev->failed, true))
		pr_err("the device failed and is reset: %s\n", why);
	spin_lock_irqsave(&dev->ctrl.lock, flags);
	if (!dev->ctrl.stopped)
		mod_delayed_work(system_freezable_wq, &dev->watch, 0);
	spin_unlock_irqrestore(&dev->ctrl.lock, flags);
}

static int vgpu_find_vqs(struct vgpu_device *dev)
{
	struct virtqueue *vqs[VGPU_WIRE_QUEUES];
	int err;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	struct virtqueue_info infos[VGPU_WIRE_QUEUES] = {
		[VGPU_WIRE_QUEUE_CONTROL] = { "control", vgpu_ctrl_callback },
		[VGPU_WIRE_QUEUE_DOORBELL] = { "doorbell", vgpu_doorbells_callback },
		[VGPU_WIRE_QUEUE_EVENT] = { "event", vgpu_events_callback },
	};

	err = virtio_find_vqs(dev->vdev, VGPU_WIRE_QUEUES, vqs, infos, NULL);
#else
	vq_callback_t *callbacks[VGPU_WIRE_QUEUES] = {
		[VGPU_WIRE_QUEUE_CONTROL] = vgpu_ctrl_callback,
		[VGPU_WIRE_QUEUE_DOORBELL] = vgpu_doorbells_callback,
		[VGPU_WIRE_QUEUE_EVENT] = vgpu_events_callback,
	};
	static const char * const names[VGPU_WIRE_QUEUES] = {
		[VGPU_WIRE_QUEUE_CONTROL] = "control",
		[VGPU_WIRE_QUEUE_DOORBELL] = "doorbell",
		[VGPU_WIRE_QUEUE_EVENT] = "event",
	};

	err = virtio_find_vqs(dev->vdev, VGPU_WIRE_QUEUES, vqs, callbacks, names,
			      NULL);
#endif
	if (err)
		return err;
	dev->ctrl.vq = vqs[VGPU_WIRE_QUEUE_CONTROL];
	dev->doorbells.vq = vqs[VGPU_WIRE_QUEUE_DOORBELL];
	dev->events.vq = vqs[VGPU_WIRE_QUEUE_EVENT];
	return 0;
}

/* Resets the device, so that the host forgets all of the guest; frees the queues. */
static void vgpu_device_stop(struct vgpu_device *dev)
{
	if (!dev->running)
		return;
	dev->running = false;
	vgpu_ctrl_stop(&dev->ctrl);
	vgpu_doorbells_stop(&dev->doorbells);
	/* Whoever saw a queue running has left it after this. */
	synchronize_rcu();
	virtio_reset_device(dev->vdev);
	vgpu_ctrl_drain(&dev->ctrl);
	vgpu_doorbells_drain(&dev->doorbells);
	vgpu_events_drain(&dev->events);
	dev->vdev->config->del_vqs(dev->vdev);
}

/* Makes the queues and starts the device. */
static int vgpu_device_start(struct vgpu_device *dev)
{
	int err = vgpu_find_vqs(dev);

	if (err)
		return err;
	dev->running = true;
	virtio_device_ready(dev->vdev);
	err = vgpu_doorbells_start(&dev->doorbells);
	if (!err)
		err = vgpu_events_start(&dev->events);
	if (!err)
		err = vgpu_ctrl_start(&dev->ctrl);
	if (err)
		vgpu_device_stop(dev);
	return err;
}

static int vgpu_read_limits(struct virtio_device *vdev, struct vgpu_limits *limits)
{
	u32 magic, version;

	if (!vdev->config->get) {
		dev_err(&vdev->dev, "the device has no configuration space\n");
		return -EINVAL;
	}
	virtio_cread_le(vdev, struct vgpu_wire_config, magic, &magic);
	virtio_cread_le(vdev, struct vgpu_wire_config, version, &version);
	if (magic != VGPU_WIRE_MAGIC) {
		dev_err(&vdev->dev, "not a vgpu device: magic %#x\n", magic);
		return -ENODEV;
	}
	if (version != VGPU_WIRE_VERSION) {
		dev_err(&vdev->dev, "the device speaks version %u, the driver %u\n",
			version, VGPU_WIRE_VERSION);
		return -EPROTONOSUPPORT;
	}
	virtio_cread_le(vdev, struct vgpu_wire_config, sessions_max,
			&limits->sessions_max);
	virtio_cread_le(vdev, struct vgpu_wire_config, rings_max,
			&limits->rings_max);
	virtio_cread_le(vdev, struct vgpu_wire_config, runs_max,
			&limits->runs_max);
	virtio_cread_le(vdev, struct vgpu_wire_config, runs_per_message_max,
			&limits->runs_per_message_max);
	virtio_cread_le(vdev, struct vgpu_wire_config, mapped_len_max,
			&limits->mapped_len_max);
	virtio_cread_le(vdev, struct vgpu_wire_config, window_len,
			&limits->window_len);
	virtio_cread_le(vdev, struct vgpu_wire_config, arena_len,
			&limits->arena_len);
	if (!limits->sessions_max || !limits->rings_max || !limits->runs_max ||
	    !limits->runs_per_message_max || !limits->mapped_len_max ||
	    !limits->arena_len || limits->arena_len > limits->window_len ||
	    limits->window_len > VGPU_WIRE_WINDOW_END) {
		dev_err(&vdev->dev, "the device's limits make no sense\n");
		return -EINVAL;
	}
	/* So many that no array of them is too large to allocate. */
	limits->runs_max = min_t(u32, limits->runs_max, VGPU_RUNS_MAX);
	limits->rings_max = min_t(u32, limits->rings_max, VGPU_WIRE_RINGS_MAX);
	limits->runs_per_message_max = min_t(u32, limits->runs_per_message_max,
					     VGPU_WIRE_RUNS_PER_MESSAGE_MAX);
	return 0;
}

static int vgpu_validate(struct virtio_device *vdev)
{
	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "legacy virtio is not supported\n");
		return -ENODEV;
	}
	/* The host could not read the pages that it is given. */
	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT)) {
		dev_err(&vdev->dev, "encrypted guest memory is not supported\n");
		return -EOPNOTSUPP;
	}
	/*
	 * Pages are named to the host by their physical addresses. A device that
	 * insists on those of an IOMMU refuses the features that are left.
	 */
	__virtio_clear_bit(vdev, VIRTIO_F_ACCESS_PLATFORM);
	return 0;
}

/* Ends all use of the device. Files that are open see ENODEV from now on. */
static void vgpu_device_disconnect(struct vgpu_device *dev)
{
	WRITE_ONCE(dev->gone, true);
	vgpu_device_stop(dev);
	vgpu_file_wake_all(dev);
	complete_all(&dev->reset_done);
	vgpu_buf_drop_orphans(dev);
}

/* Lets no request be made and ends the watch, which may reset the device first. */
static void vgpu_device_quiesce(struct vgpu_device *dev)
{
	vgpu_ctrl_stop(&dev->ctrl);
	cancel_delayed_work_sync(&dev->watch);
}

/* Looks whether the host is there, for as long as it owes anything. */
static void vgpu_watch(struct work_struct *work)
{
	struct vgpu_device *dev = container_of(to_delayed_work(work),
					       struct vgpu_device, watch);

	if (vgpu_doorbells_look(&dev->doorbells))
		dev->missed = 0;
	else if (++dev->missed == VGPU_MISSED_MAX)
		vgpu_device_fail(dev, "its host does not answer");

	if (READ_ONCE(dev->failed)) {
		vgpu_device_disconnect(dev);
		return;
	}
	spin_lock_irq(&dev->ctrl.lock);
	if (!dev->ctrl.stopped && (!xa_empty(&dev->sessions) ||
				   !list_empty(&dev->ctrl.inflight)))
		vgpu_watch_start(dev);
	spin_unlock_irq(&dev->ctrl.lock);
}

/* Before a reboot or kexec: the host must not write to the next kernel's memory. */
static void vgpu_shutdown(struct device *device)
{
	struct vgpu_device *dev = dev_to_virtio(device)->priv;

	vgpu_device_quiesce(dev);
	vgpu_device_disconnect(dev);
}

static int vgpu_probe(struct virtio_device *vdev)
{
	struct vgpu_device *dev;
	int err;

	if (atomic_cmpxchg(&vgpu_bound, 0, 1)) {
		dev_err(&vdev->dev, "a vgpu device is in use already\n");
		return -EBUSY;
	}
	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev) {
		err = -ENOMEM;
		goto unbind;
	}
	kref_init(&dev->ref);
	dev->vdev = vdev;
	vdev->priv = dev;
	vgpu_ctrl_init(&dev->ctrl);
	vgpu_doorbells_init(&dev->doorbells);
	vgpu_events_init(&dev->events);
	INIT_DELAYED_WORK(&dev->watch, vgpu_watch);
	init_completion(&dev->reset_done);
	xa_init_flags(&dev->sessions, XA_FLAGS_LOCK_IRQ);
	spin_lock_init(&dev->files_lock);
	INIT_LIST_HEAD(&dev->files);
	mutex_init(&dev->orphans_lock);
	INIT_LIST_HEAD(&dev->orphans);

	err = vgpu_read_limits(vdev, &dev->limits);
	if (err)
		goto put;
	err = vgpu_device_start(dev);
	if (err)
		goto put;

	dev->misc.minor = MISC_DYNAMIC_MINOR;
	dev->misc.name = "vgpu";
	dev->misc.fops = &vgpu_fops;
	dev->misc.mode = 0666;
	dev->misc.parent = &vdev->dev;
	err = misc_register(&dev->misc);
	if (err)
		goto stop;
	/* Kernels without a shutdown of the bus leave it to the driver. */
	if (!vdev->dev.bus->shutdown)
		vdev->dev.driver->shutdown = vgpu_shutdown;
	return 0;

stop:
	vgpu_device_quiesce(dev);
	vgpu_device_stop(dev);
put:
	vgpu_device_put(dev);
unbind:
	atomic_set(&vgpu_bound, 0);
	return err;
}

static void vgpu_remove(struct virtio_device *vdev)
{
	struct vgpu_device *dev = vdev->priv;

	misc_deregister(&dev->misc);
	vgpu_device_quiesce(dev);
	vgpu_device_disconnect(dev);
	vgpu_device_put(dev);
	atomic_set(&vgpu_bound, 0);
}

static void vgpu_config_changed(struct virtio_device *vdev)
{
	if (vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		vgpu_device_fail(vdev->priv, "it asks for it");
}

#ifdef CONFIG_PM_SLEEP
/* The host cannot keep a session over a suspend, so none may be open. */
static int vgpu_freeze(struct virtio_device *vdev)
{
	struct vgpu_device *dev = vdev->priv;

	if (!xa_empty(&dev->sessions) || !vgpu_ctrl_idle(&dev->ctrl) ||
	    READ_ONCE(dev->broken)) {
		dev_warn(&vdev->dev, "in use, cannot be suspended\n");
		return -EBUSY;
	}
	vgpu_device_quiesce(dev);
	vgpu_device_stop(dev);
	return 0;
}

static int vgpu_restore(struct virtio_device *vdev)
{
	struct vgpu_device *dev = vdev->priv;

	/* One that failed stays out of use until it is bound anew. */
	return READ_ONCE(dev->gone) ? 0 : vgpu_device_start(dev);
}
#endif

static struct virtio_device_id vgpu_ids[] = {
	{ VGPU_WIRE_VIRTIO_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, vgpu_ids);

static struct virtio_driver vgpu_driver = {
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.id_table = vgpu_ids,
	.validate = vgpu_validate,
	.probe = vgpu_probe,
	.remove = vgpu_remove,
	.config_changed = vgpu_config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = vgpu_freeze,
	.restore = vgpu_restore,
#endif
};

static int __init vgpu_init(void)
{
	vgpu_ids[0].device = virtio_id;
	return register_virtio_driver(&vgpu_driver);
}
module_init(vgpu_init);

static void __exit vgpu_exit(void)
{
	unregister_virtio_driver(&vgpu_driver);
}
module_exit(vgpu_exit);

MODULE_DESCRIPTION("virtio-vgpu: shared GPUs of the host");
MODULE_AUTHOR("The vgpu authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
