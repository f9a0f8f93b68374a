// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/vgpu: an open file is at most one session.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vgpu_drv.h"

/**
 * vgpu_file_status - whether a file has a session that works
 * @file: the file
 *
 * Context: any.
 * Return: 0, -ENOTCONN if it has none yet, -ENODEV if session or device are
 * gone.
 */
int vgpu_file_status(struct vgpu_file *file)
{
	if (READ_ONCE(file->dev->gone))
		return -ENODEV;
	/* Pairs with vgpu_file_set_status(): 0 makes session and window valid. */
	return smp_load_acquire(&file->status);
}

static void vgpu_file_set_status(struct vgpu_file *file, int status)
{
	/* Pairs with vgpu_file_status(). */
	smp_store_release(&file->status, status);
	wake_up_all(&file->wait);
}

/**
 * vgpu_file_call - make a control request of a file's session
 * @file:	the file
 * @req:	the request
 *
 * Context: process context, vgpu_file.lock held, sleeps.
 * Return: 0 if the device did as asked, else -errno.
 */
int vgpu_file_call(struct vgpu_file *file, struct vgpu_req *req)
{
	int err;

	lockdep_assert_held(&file->lock);
	err = vgpu_ctrl_call(file->dev, req);
	if (err)
		return err;
	if (req->status == VGPU_WIRE_LOST)
		vgpu_file_set_status(file, -ENODEV);
	return vgpu_status_to_errno(req->status);
}

/**
 * vgpu_file_wake_all - have all files see that the device is gone
 * @dev: the device
 *
 * Context: process context.
 */
void vgpu_file_wake_all(struct vgpu_device *dev)
{
	struct vgpu_file *file;

	spin_lock(&dev->files_lock);
	list_for_each_entry(file, &dev->files, link)
		wake_up_all(&file->wait);
	spin_unlock(&dev->files_lock);
}

static long vgpu_ioctl_info(struct vgpu_file *file, void __user *user)
{
	const struct vgpu_limits *limits = &file->dev->limits;
	struct vgpu_info info = {
		.abi_version = VGPU_ABI_VERSION,
		.wire_version = VGPU_WIRE_VERSION,
		.sessions_max = limits->sessions_max,
		.rings_max = limits->rings_max,
		.runs_max = limits->runs_max,
		.page_len = PAGE_SIZE,
		.mapped_len_max = limits->mapped_len_max,
		.window_len = limits->window_len,
		.arena_len = limits->arena_len,
	};

	if (READ_ONCE(file->dev->gone))
		return -ENODEV;
	return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
}

/* Passes on what the device tells of the VM's GPUs. The file needs no session. */
static long vgpu_ioctl_gpus(struct vgpu_file *file, struct vgpu_gpus __user *user)
{
	struct vgpu_gpus args;
	struct vgpu_req *req;
	int err;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	if (args.reserved)
		return -EINVAL;
	req = vgpu_req_new(VGPU_WIRE_GPUS, 0, 0);
	if (!req)
		return -ENOMEM;
	err = vgpu_req_expect(req, VGPU_WIRE_GPUS_LEN_MAX);
	if (!err)
		err = vgpu_ctrl_call(file->dev, req);
	if (!err)
		err = vgpu_status_to_errno(req->status);
	if (err)
		goto put;
	if (put_user(req->more_written, &user->len))
		err = -EFAULT;
	else if (req->more_written > args.len)
		err = -EMSGSIZE;
	else if (copy_to_user(u64_to_user_ptr(args.addr), req->more,
			      req->more_written))
		err = -EFAULT;
put:
	vgpu_req_put(req);
	return err;
}

static bool vgpu_window_valid(const struct vgpu_limits *limits, u64 window)
{
	return window && IS_ALIGNED(window, VGPU_WIRE_WINDOW_ALIGN) &&
	       window <= VGPU_WIRE_WINDOW_END - limits->window_len;
}

/* Takes on the session that the device says it opened. */
static int vgpu_session_adopt(struct vgpu_file *file, const struct vgpu_open *args,
			      const struct vgpu_req *req)
{
	u32 session = le32_to_cpu(req->opened.session);
	u64 window = le64_to_cpu(req->opened.window);
	bool offered = false;
	int err;

	for (u32 i = 0; i < args->windows_len; i++)
		offered |= args->windows[i] == window;
	if (!session || !offered) {
		vgpu_device_break(file->dev, "it opened a session that was not asked for");
		return -EIO;
	}
	err = xa_insert_irq(&file->dev->sessions, session, file, GFP_KERNEL_ACCOUNT);
	if (err == -EBUSY) {
		vgpu_device_break(file->dev, "it opened the same session twice");
		return -EIO;
	}
	/* From here on closing the file closes the session. */
	file->session = session;
	file->window = window;
	file->close->header.session = cpu_to_le32(session);
	return err;
}

/* Opens the session, with the GPUs of these names. Context: vgpu_file.lock held. */
static int vgpu_session_open(struct vgpu_file *file, struct vgpu_open *args,
			     const void *gpus, u32 gpus_len)
{
	size_t gpus_size = (size_t)gpus_len * VGPU_WIRE_GPU_NAME_LEN;
	char name[TASK_COMM_LEN];
	struct vgpu_wire_session_open *body;
	struct vgpu_req *req;
	int err;

	if (READ_ONCE(file->dev->gone))
		return -ENODEV;
	if (READ_ONCE(file->dev->broken))
		return -EIO;
	if (file->status != -ENOTCONN)
		return -EBUSY;

	/* Closing must not fail for want of memory. */
	if (!file->close)
		file->close = vgpu_req_new(VGPU_WIRE_SESSION_CLOSE, 0, 0);
	req = vgpu_req_new(VGPU_WIRE_SESSION_OPEN, 0, sizeof(*body) + gpus_size);
	if (!file->close || !req) {
		err = -ENOMEM;
		goto put;
	}
	body = (struct vgpu_wire_session_open *)req->body;
	body->pid = cpu_to_le32(task_tgid_nr(current));
	body->windows_len = cpu_to_le32(args->windows_len);
	for (u32 i = 0; i < args->windows_len; i++)
		body->windows[i] = cpu_to_le64(args->windows[i]);
	get_task_comm(name, current->group_leader);
	strscpy(body->name, name, sizeof(body->name));
	/* What the names are is the host's to check. */
	if (gpus_size)
		memcpy(body->gpus, gpus, gpus_size);

	err = vgpu_ctrl_call(file->dev, req);
	if (err == -EINTR) {
		/* The control queue closes it should it still be opened. */
		vgpu_file_set_status(file, -ENODEV);
		goto put;
	}
	if (!err) {
		err = vgpu_status_to_errno(req->status);
		args->status = req->status;
		if (req->status == VGPU_WIRE_QUARANTINED)
			args->wait_s = req->wait_s;
	}
	/* It may be tried again. */
	if (err)
		goto put;
	err = vgpu_session_adopt(file, args, req);
	vgpu_file_set_status(file, err ? -ENODEV : 0);
put:
	if (req)
		vgpu_req_put(req);
	return err;
}

/* Checks what a program asks for, opens the session and says how that went. */
static int vgpu_open_checked(struct vgpu_file *file, struct vgpu_open *args,
			     const void *gpus, u32 gpus_len)
{
	int err;

	if (args->wait_s || args->status || !args->windows_len ||
	    args->windows_len > VGPU_WINDOWS_MAX)
		return -EINVAL;
	for (u32 i = 0; i < args->windows_len; i++)
		if (!vgpu_window_valid(&file->dev->limits, args->windows[i]))
			return -EINVAL;

	err = mutex_lock_killable(&file->lock);
	if (err)
		return err;
	err = vgpu_session_open(file, args, gpus, gpus_len);
	args->window = file->window;
	args->session = file->session;
	mutex_unlock(&file->lock);
	return err;
}

static long vgpu_ioctl_open(struct vgpu_file *file, struct vgpu_open __user *user)
{
	struct vgpu_open args;
	int err;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	err = vgpu_open_checked(file, &args, NULL, 0);
	/* Why it was refused is told, too. */
	if (copy_to_user(user, &args, sizeof(args)) && !err)
		err = -EFAULT;
	return err;
}

static long vgpu_ioctl_open_gpus(struct vgpu_file *file,
				 struct vgpu_open_gpus __user *user)
{
	struct vgpu_open_gpus args;
	void *gpus;
	int err;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	if (args.reserved || !args.gpus_len || args.gpus_len > VGPU_GPUS_MAX)
		return -EINVAL;
	/* Before any lock: the program's memory may take its time. */
	gpus = memdup_user(u64_to_user_ptr(args.gpus),
			   args.gpus_len * VGPU_GPU_NAME_LEN);
	if (IS_ERR(gpus))
		return PTR_ERR(gpus);
	err = vgpu_open_checked(file, &args.open, gpus, args.gpus_len);
	kfree(gpus);
	if (copy_to_user(&user->open, &args.open, sizeof(args.open)) && !err)
		err = -EFAULT;
	return err;
}

static long vgpu_ioctl_alloc(struct vgpu_file *file, struct vgpu_alloc __user *user)
{
	struct vgpu_alloc args;
	int err;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	if (args.reserved)
		return -EINVAL;
	err = vgpu_file_status(file);
	if (!err)
		err = vgpu_buf_alloc(file, args.addr, args.len, args.flags);
	if (err)
		return err;
	/* Addresses are unique in a session, so they serve as offsets. */
	return put_user(args.addr, &user->offset);
}

static long vgpu_ioctl_free(struct vgpu_file *file, struct vgpu_free __user *user)
{
	struct vgpu_free args;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	return vgpu_buf_free(file, args.addr);
}

static long vgpu_ioctl_pin(struct vgpu_file *file, struct vgpu_pin __user *user)
{
	struct vgpu_pin args;
	int err;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	if (args.flags || args.reserved)
		return -EINVAL;
	err = vgpu_file_status(file);
	return err ? err : vgpu_buf_pin(file, args.addr, args.len);
}

static long vgpu_ioctl_ring(struct vgpu_file *file, struct vgpu_ring __user *user,
			    bool create)
{
	struct vgpu_wire_ring_destroy *destroy_body;
	struct vgpu_wire_ring_create *create_body;
	struct vgpu_ring args;
	struct vgpu_req *req;
	int err;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	if (args.reserved || args.ring >= file->dev->limits.rings_max ||
	    (create && !PAGE_ALIGNED(args.addr)))
		return -EINVAL;

	err = mutex_lock_killable(&file->lock);
	if (err)
		return err;
	err = vgpu_file_status(file);
	if (err)
		goto unlock;
	req = create ? vgpu_req_new(VGPU_WIRE_RING_CREATE, file->session,
				    sizeof(*create_body)) :
		       vgpu_req_new(VGPU_WIRE_RING_DESTROY, file->session,
				    sizeof(*destroy_body));
	if (!req) {
		err = -ENOMEM;
		goto unlock;
	}
	if (create) {
		create_body = (struct vgpu_wire_ring_create *)req->body;
		create_body->ring = cpu_to_le32(args.ring);
		create_body->addr = cpu_to_le64(args.addr);
	} else {
		destroy_body = (struct vgpu_wire_ring_destroy *)req->body;
		destroy_body->ring = cpu_to_le32(args.ring);
	}
	err = vgpu_file_call(file, req);
	vgpu_req_put(req);
unlock:
	mutex_unlock(&file->lock);
	return err;
}

static long vgpu_ioctl_doorbell(struct vgpu_file *file, u32 __user *user)
{
	int err = vgpu_file_status(file);
	u32 ring;

	if (err)
		return err;
	if (get_user(ring, user))
		return -EFAULT;
	if (ring >= file->dev->limits.rings_max)
		return -EINVAL;
	return vgpu_doorbell_ring(file, ring);
}

/* Sleeps until there is an event after @seen; @deadline NULL: without end. */
static int vgpu_file_wait(struct vgpu_file *file, u64 seen, ktime_t *deadline)
{
	bool expired = false;
	DEFINE_WAIT(wait);
	int err;

	for (;;) {
		prepare_to_wait(&file->wait, &wait, TASK_INTERRUPTIBLE);
		err = vgpu_file_status(file);
		if (err || (u64)atomic64_read(&file->events) != seen)
			break;
		if (expired) {
			err = -ETIME;
			break;
		}
		if (signal_pending(current)) {
			/* The deadline is absolute, so the wait can go on. */
			err = -ERESTARTNOHAND;
			break;
		}
		expired = !schedule_hrtimeout_range(deadline, current->timer_slack_ns,
						    HRTIMER_MODE_ABS);
	}
	finish_wait(&file->wait, &wait);
	return err;
}

static long vgpu_ioctl_wait(struct vgpu_file *file, struct vgpu_wait __user *user)
{
	struct vgpu_wait args;
	ktime_t deadline;
	int err;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	deadline = ns_to_ktime(min_t(u64, args.deadline_ns, KTIME_MAX));
	err = vgpu_file_wait(file, args.seen, args.deadline_ns ? &deadline : NULL);
	if (err && err != -ETIME)
		return err;
	args.seen = atomic64_read(&file->events);
	if (put_user(args.seen, &user->seen))
		return -EFAULT;
	atomic64_set(&file->seen, args.seen);
	return err;
}

static long vgpu_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct vgpu_file *file = filp->private_data;
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case VGPU_IOC_INFO:
		return vgpu_ioctl_info(file, user);
	case VGPU_IOC_OPEN:
		return vgpu_ioctl_open(file, user);
	case VGPU_IOC_OPEN_GPUS:
		return vgpu_ioctl_open_gpus(file, user);
	case VGPU_IOC_ALLOC:
		return vgpu_ioctl_alloc(file, user);
	case VGPU_IOC_FREE:
		return vgpu_ioctl_free(file, user);
	case VGPU_IOC_PIN:
		return vgpu_ioctl_pin(file, user);
	case VGPU_IOC_RING_CREATE:
		return vgpu_ioctl_ring(file, user, true);
	case VGPU_IOC_RING_DESTROY:
		return vgpu_ioctl_ring(file, user, false);
	case VGPU_IOC_DOORBELL:
		return vgpu_ioctl_doorbell(file, user);
	case VGPU_IOC_WAIT:
		return vgpu_ioctl_wait(file, user);
	case VGPU_IOC_GPUS:
		return vgpu_ioctl_gpus(file, user);
	default:
		return -ENOTTY;
	}
}

static __poll_t vgpu_poll(struct file *filp, poll_table *table)
{
	struct vgpu_file *file = filp->private_data;

	poll_wait(filp, &file->wait, table);
	switch (vgpu_file_status(file)) {
	case 0:
		if (atomic64_read(&file->events) != atomic64_read(&file->seen))
			return EPOLLIN | EPOLLRDNORM;
		return 0;
	case -ENOTCONN:
		return 0;
	default:
		return EPOLLHUP | EPOLLERR;
	}
}

static int vgpu_mmap(struct file *filp, struct vm_area_struct *vma)
{
	return vgpu_buf_mmap(filp->private_data, vma);
}

static int vgpu_open(struct inode *inode, struct file *filp)
{
	/* Set by misc_open(), which keeps the device from being deregistered. */
	struct vgpu_device *dev = container_of(filp->private_data,
					       struct vgpu_device, misc);
	struct vgpu_file *file;

	file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);
	if (!file)
		return -ENOMEM;
	kref_get(&dev->ref);
	file->dev = dev;
	mutex_init(&file->lock);
	mutex_init(&file->bufs_lock);
	file->status = -ENOTCONN;
	file->bufs = RB_ROOT;
	init_waitqueue_head(&file->wait);
	INIT_LIST_HEAD(&file->doorbell_link);
	spin_lock(&dev->files_lock);
	list_add_tail(&file->link, &dev->files);
	spin_unlock(&dev->files_lock);
	filp->private_data = file;
	return nonseekable_open(inode, filp);
}

/* Ends the session; true: the host has nothing of it any more. */
static bool vgpu_session_close(struct vgpu_file *file)
{
	struct vgpu_device *dev = file->dev;
	int err;

	err = vgpu_ctrl_call_bounded(dev, file->close, VGPU_CLOSE_TIMEOUT_S);
	switch (err) {
	case 0:
		if (file->close->status == VGPU_WIRE_OK)
			return true;
		vgpu_device_break(dev, "it failed to close a session");
		return false;
	case -ENODEV:
		wait_for_completion(&dev->reset_done);
		return true;
	default:
		vgpu_device_break(dev, "it did not confirm the end of a session");
		return false;
	}
}

static int vgpu_release(struct inode *inode, struct file *filp)
{
	struct vgpu_file *file = filp->private_data;
	struct vgpu_device *dev = file->dev;
	bool closed;

	spin_lock(&dev->files_lock);
	list_del(&file->link);
	spin_unlock(&dev->files_lock);
	if (file->session) {
		vgpu_doorbell_forget(file);
		closed = vgpu_session_close(file);
		/*
		 * Only now, since it keeps the guest from being suspended: the close
		 * would wait for ever then. No other session gets its number.
		 */
		xa_erase_irq(&dev->sessions, file->session);
		if (closed)
			vgpu_buf_drop_all(file);
		else
			vgpu_buf_orphan_all(file);
	}
	if (file->close)
		vgpu_req_put(file->close);
	kfree(file);
	vgpu_device_put(dev);
	return 0;
}

/* The operations of /dev/vgpu. The module stays while a file is open. */
const struct file_operations vgpu_fops = {
	.owner = THIS_MODULE,
	.open = vgpu_open,
	.release = vgpu_release,
	.unlocked_ioctl = vgpu_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = vgpu_poll,
	.mmap = vgpu_mmap,
};
