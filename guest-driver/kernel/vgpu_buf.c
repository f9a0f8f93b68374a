// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers: memory of the guest that the host maps at the same address.
 *
 * The pages are ordinary ones, each with a reference count of its own. The
 * buffer holds one reference, each user mapping another, so a page outlives
 * both. They are charged to the caller's memory cgroup, and, being the
 * driver's and not the user's, not to RLIMIT_MEMLOCK.
 *
 * Or memory of a process' own, which it has anyway and which lies where it lies
 * (VGPU_IOC_PIN): its pages are pinned, so that neither their content nor their
 * place changes, whatever the process does with its addresses meanwhile. They
 * count as pinned by it (VmPin), not against RLIMIT_MEMLOCK, as with other GPU
 * drivers.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/swap.h>
#include <linux/version.h>

#include "vgpu_drv.h"

/* The largest piece that is asked for: 2 MiB of 4 KiB pages. */
#define VGPU_ORDER_MAX	9

/*
 * While pages are gathered there may be this many pieces for each run that is
 * allowed: neighbours that come one after the other merge in the end.
 */
#define VGPU_PIECES_PER_RUN	4

/**
 * struct vgpu_run - pages that lie side by side
 * @pfn:	the first
 * @pages:	how many
 */
struct vgpu_run {
	unsigned long pfn;
	unsigned long pages;
};

/**
 * struct vgpu_pages - the pages of a buffer
 * @runs:	the runs, in the order in which they are mapped
 * @len:	how many runs there are
 * @cap:	how many fit
 */
struct vgpu_pages {
	struct vgpu_run *runs;
	u32 len;
	u32 cap;
};

/**
 * enum vgpu_buf_state - what the host knows of a buffer
 * @VGPU_BUF_CHANGING: it is being told about the pages, or is to forget them
 * @VGPU_BUF_MAPPED: it has mapped all of them; users may too
 */
enum vgpu_buf_state {
	VGPU_BUF_CHANGING,
	VGPU_BUF_MAPPED
};

/**
 * struct vgpu_buf - a buffer
 * @ref:	one for the file (or the device, for an orphan), one while it is
 *		mapped into a process
 * @node:	in vgpu_file.bufs
 * @link:	in vgpu_device.orphans
 * @addr:	its address, in the guest process and on the host
 * @len:	bytes
 * @state:	changed under vgpu_file.lock and .bufs_lock
 * @named:	the host may use some of the pages. Under vgpu_file.lock
 * @mm:		of the process whose memory it is, which need not be there any
 *		more; NULL: the driver's
 * @pages:	its memory
 */
struct vgpu_buf {
	struct kref ref;
	struct rb_node node;
	struct list_head link;
	u64 addr;
	u64 len;
	enum vgpu_buf_state state;
	bool named;
	struct mm_struct *mm;
	struct vgpu_pages pages;
};

static void vgpu_pages_free(struct vgpu_pages *pages)
{
	for (u32 run = 0; run < pages->len; run++) {
		unsigned long pfn = pages->runs[run].pfn;

		for (unsigned long i = 0; i < pages->runs[run].pages; i++) {
			put_page(pfn_to_page(pfn + i));
			if (i % BIT(VGPU_ORDER_MAX) == 0)
				cond_resched();
		}
	}
	kvfree(pages->runs);
	memset(pages, 0, sizeof(*pages));
}

/* Unpins a process' pages, which the device may have written. */
static void vgpu_pages_unpin(struct vgpu_pages *pages, struct mm_struct *mm)
{
	for (u32 run = 0; run < pages->len; run++) {
		unsigned long pfn = pages->runs[run].pfn;
		unsigned long left = pages->runs[run].pages;

		atomic64_sub(left, &mm->pinned_vm);
		while (left) {
			unsigned long count = min(left, BIT(VGPU_ORDER_MAX));

			unpin_user_page_range_dirty_lock(pfn_to_page(pfn), count, true);
			pfn += count;
			left -= count;
			cond_resched();
		}
	}
	kvfree(pages->runs);
	memset(pages, 0, sizeof(*pages));
}

static int vgpu_run_compare(const void *a, const void *b)
{
	const struct vgpu_run *left = a, *right = b;

	return left->pfn < right->pfn ? -1 : left->pfn > right->pfn;
}

/* All pages are zero, so their order is free: the one with the fewest runs is taken. */
static void vgpu_pages_merge(struct vgpu_pages *pages)
{
	u32 last = 0;

	if (!pages->len)
		return;
	sort(pages->runs, pages->len, sizeof(*pages->runs), vgpu_run_compare, NULL);
	for (u32 run = 1; run < pages->len; run++) {
		struct vgpu_run *to = &pages->runs[last];

		if (to->pfn + to->pages == pages->runs[run].pfn)
			to->pages += pages->runs[run].pages;
		else
			pages->runs[++last] = pages->runs[run];
	}
	pages->len = last + 1;
}

static struct page *vgpu_page_alloc(unsigned int order, bool hard)
{
	gfp_t gfp = GFP_HIGHUSER | __GFP_ZERO | __GFP_ACCOUNT | __GFP_NOWARN;
	struct page *page;

	/* Never the OOM killer: the caller is told, and stages its copies. */
	gfp |= order && !hard ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL;
	page = alloc_pages(gfp, order);
	if (page && order)
		split_page(page, order);
	return page;
}

/*
 * Gathers pages in large pieces; in smaller ones once there are no larger.
 * -EFBIG: there is memory, but it is too scattered.
 */
static int vgpu_pages_gather(struct vgpu_pages *pages, unsigned long count,
			     bool hard)
{
	unsigned int order = VGPU_ORDER_MAX;

	while (count) {
		struct page *page;

		if (fatal_signal_pending(current))
			return -EINTR;
		if (pages->len == pages->cap) {
			vgpu_pages_merge(pages);
			/* The rest would be as scattered. */
			if (pages->len > pages->cap - pages->cap / 4)
				return -EFBIG;
		}
		order = min_t(unsigned int, order, __fls(count));
		page = vgpu_page_alloc(order, hard);
		if (page) {
			pages->runs[pages->len].pfn = page_to_pfn(page);
			pages->runs[pages->len].pages = BIT(order);
			pages->len++;
			count -= BIT(order);
		} else if (order) {
			order--;
		} else {
			return -ENOMEM;
		}
		cond_resched();
	}
	vgpu_pages_merge(pages);
	return 0;
}

/*
 * Allocates @count zeroed pages in at most @runs_max runs. Tries quickly first;
 * if that is too scattered, lets reclaim and compaction work.
 */
static int vgpu_pages_alloc(struct vgpu_pages *pages, unsigned long count,
			    u32 runs_max)
{
	int err = -EFBIG;

	/* Trying would only push everybody else's memory out first. */
	if (!runs_max || count > si_mem_available() + get_nr_swap_pages())
		return -ENOMEM;
	for (int hard = 0; err == -EFBIG && hard <= 1; hard++) {
		pages->len = 0;
		pages->cap = min_t(u64, count, (u64)runs_max * VGPU_PIECES_PER_RUN);
		pages->runs = kvmalloc_array(pages->cap, sizeof(*pages->runs),
					     GFP_KERNEL_ACCOUNT);
		if (!pages->runs)
			return -ENOMEM;
		err = vgpu_pages_gather(pages, count, hard);
		if (!err && pages->len > runs_max)
			err = -EFBIG;
		if (err)
			vgpu_pages_free(pages);
	}
	return err == -EFBIG ? -ENOMEM : err;
}

/*
 * Whether the device may have a page: memory of processes' own and of tmpfs. A
 * file's pages are its file system's, which is not asked when the device writes
 * them, and another device's memory is not the guest's.
 */
static bool vgpu_page_suits(struct page *page)
{
	struct folio *folio = page_folio(page);

	return folio_test_anon(folio) || folio_test_swapbacked(folio) ||
	       folio_test_hugetlb(folio);
}

/* Adds a pinned page behind the others; false if that takes too many runs. */
static bool vgpu_pages_append(struct vgpu_pages *pages, unsigned long pfn)
{
	struct vgpu_run *last = pages->len ? &pages->runs[pages->len - 1] : NULL;

	if (last && last->pfn + last->pages == pfn) {
		last->pages++;
		return true;
	}
	if (pages->len == pages->cap)
		return false;
	pages->runs[pages->len].pfn = pfn;
	pages->runs[pages->len].pages = 1;
	pages->len++;
	return true;
}

/* Pins the caller's pages from @addr on, in the order in which they lie there. */
static int vgpu_pages_pin_all(struct vgpu_pages *pages, u64 addr,
			      unsigned long count, struct page **batch)
{
	while (count) {
		int wanted = min(count, PAGE_SIZE / sizeof(*batch));
		int err = 0, pinned;

		if (fatal_signal_pending(current))
			return -EINTR;
		pinned = pin_user_pages_fast(addr, wanted,
					     FOLL_WRITE | FOLL_LONGTERM, batch);
		if (pinned <= 0)
			return pinned ? pinned : -EFAULT;
		for (int i = 0; i < pinned; i++) {
			if (!err && !vgpu_page_suits(batch[i]))
				err = -EOPNOTSUPP;
			if (!err && !vgpu_pages_append(pages, page_to_pfn(batch[i])))
				err = -ENOMEM;
			if (err)
				unpin_user_page(batch[i]);
			else
				atomic64_inc(&current->mm->pinned_vm);
		}
		if (err)
			return err;
		addr += (u64)pinned << PAGE_SHIFT;
		count -= pinned;
		cond_resched();
	}
	return 0;
}

/* Pins @count pages of the caller's in at most @runs_max runs. */
static int vgpu_pages_pin(struct vgpu_pages *pages, u64 addr,
			  unsigned long count, u32 runs_max)
{
	struct page **batch;
	int err = -ENOMEM;

	pages->len = 0;
	pages->cap = min_t(u64, count, runs_max);
	if (!pages->cap)
		return -ENOMEM;
	pages->runs = kvmalloc_array(pages->cap, sizeof(*pages->runs),
				     GFP_KERNEL_ACCOUNT);
	batch = (struct page **)__get_free_page(GFP_KERNEL);
	if (pages->runs && batch)
		err = vgpu_pages_pin_all(pages, addr, count, batch);
	free_page((unsigned long)batch);
	if (err)
		vgpu_pages_unpin(pages, current->mm);
	return err;
}

static void vgpu_buf_release(struct kref *ref)
{
	struct vgpu_buf *buf = container_of(ref, struct vgpu_buf, ref);

	if (buf->mm) {
		vgpu_pages_unpin(&buf->pages, buf->mm);
		mmdrop(buf->mm);
	} else {
		vgpu_pages_free(&buf->pages);
	}
	kfree(buf);
}

static void vgpu_buf_put(struct vgpu_buf *buf)
{
	kref_put(&buf->ref, vgpu_buf_release);
}

/* The buffer that holds @addr, or NULL. Context: bufs_lock held. */
static struct vgpu_buf *vgpu_buf_find(struct vgpu_file *file, u64 addr)
{
	struct rb_node *node = file->bufs.rb_node;

	while (node) {
		struct vgpu_buf *buf = rb_entry(node, struct vgpu_buf, node);

		if (addr < buf->addr)
			node = node->rb_left;
		else if (addr - buf->addr >= buf->len)
			node = node->rb_right;
		else
			return buf;
	}
	return NULL;
}

/* Adds a buffer to its file, within the limits. */
static int vgpu_buf_insert(struct vgpu_file *file, struct vgpu_buf *buf)
{
	const struct vgpu_limits *limits = &file->dev->limits;
	struct rb_node **link = &file->bufs.rb_node, *parent = NULL;
	int err = 0;

	mutex_lock(&file->bufs_lock);
	while (*link) {
		struct vgpu_buf *other = rb_entry(*link, struct vgpu_buf, node);

		parent = *link;
		if (buf->addr + buf->len <= other->addr) {
			link = &parent->rb_left;
		} else if (other->addr + other->len <= buf->addr) {
			link = &parent->rb_right;
		} else {
			err = -EEXIST;
			goto unlock;
		}
	}
	/* Other threads may have allocated since the pages were gathered. */
	if (buf->pages.len > limits->runs_max - file->runs) {
		err = -ENOMEM;
	} else if (buf->len > limits->mapped_len_max - file->mapped_len) {
		err = -ENOSPC;
	} else {
		rb_link_node(&buf->node, parent, link);
		rb_insert_color(&buf->node, &file->bufs);
		file->runs += buf->pages.len;
		file->mapped_len += buf->len;
	}
unlock:
	mutex_unlock(&file->bufs_lock);
	return err;
}

/* Takes a buffer that the host does not use from its file, and drops it. */
static void vgpu_buf_drop(struct vgpu_file *file, struct vgpu_buf *buf)
{
	mutex_lock(&file->bufs_lock);
	rb_erase(&buf->node, &file->bufs);
	file->runs -= buf->pages.len;
	file->mapped_len -= buf->len;
	mutex_unlock(&file->bufs_lock);
	vgpu_buf_put(buf);
}

static void vgpu_buf_set_state(struct vgpu_file *file, struct vgpu_buf *buf,
			       enum vgpu_buf_state state)
{
	mutex_lock(&file->bufs_lock);
	buf->state = state;
	mutex_unlock(&file->bufs_lock);
}

/*
 * Names the pages to the host. On failure @buf->named says whether it may have
 * taken any. Context: vgpu_file.lock held.
 */
static int vgpu_buf_map(struct vgpu_file *file, struct vgpu_buf *buf,
			u32 wire_flags)
{
	u64 offset = 0;
	u32 run = 0;

	while (run < buf->pages.len) {
		u32 runs_len = min(buf->pages.len - run,
				   file->dev->limits.runs_per_message_max);
		struct vgpu_wire_map *map;
		struct vgpu_req *req;
		int err;

		req = vgpu_req_new(VGPU_WIRE_MAP, file->session,
				   struct_size(map, runs, runs_len));
		if (!req)
			return -ENOMEM;
		map = (struct vgpu_wire_map *)req->body;
		map->addr = cpu_to_le64(buf->addr);
		map->len = cpu_to_le64(buf->len);
		map->offset = cpu_to_le64(offset);
		map->flags = cpu_to_le32(wire_flags);
		map->runs_len = cpu_to_le32(runs_len);
		for (u32 i = 0; i < runs_len; i++, run++) {
			u64 len = (u64)buf->pages.runs[run].pages << PAGE_SHIFT;

			map->runs[i].gpa = cpu_to_le64(PFN_PHYS(buf->pages.runs[run].pfn));
			map->runs[i].len = cpu_to_le64(len);
			offset += len;
		}
		err = vgpu_file_call(file, req);
		/*
		 * Refused: it takes nothing of this message. Not answered, lost or
		 * failed: it may have, and what has them may not have ended.
		 */
		if (!err || !req->answered || err == -ENODEV || err == -EIO)
			buf->named = true;
		vgpu_req_put(req);
		if (err)
			return err;
	}
	return 0;
}

/*
 * Has the host forget a buffer. If it neither confirms nor refuses, the buffer
 * stays until the session is closed. Context: vgpu_file.lock held.
 */
static int vgpu_buf_unmap(struct vgpu_file *file, struct vgpu_buf *buf)
{
	struct vgpu_wire_unmap *unmap;
	struct vgpu_req *req;
	int err;

	req = vgpu_req_new(VGPU_WIRE_UNMAP, file->session, sizeof(*unmap));
	if (!req)
		return -ENOMEM;
	unmap = (struct vgpu_wire_unmap *)req->body;
	unmap->addr = cpu_to_le64(buf->addr);
	err = vgpu_file_call(file, req);
	vgpu_req_put(req);
	/* Of a buffer that it failed to map it may know nothing. */
	if (!err || err == -ENOENT)
		buf->named = false;
	return err;
}

static bool vgpu_buf_in_arena(struct vgpu_file *file, u64 addr, u64 len)
{
	u64 arena_len = file->dev->limits.arena_len;

	return addr >= file->window && addr - file->window < arena_len &&
	       len <= arena_len - (addr - file->window);
}

static struct vgpu_buf *vgpu_buf_new(u64 addr, u64 len)
{
	struct vgpu_buf *buf = kzalloc(sizeof(*buf), GFP_KERNEL_ACCOUNT);

	if (!buf)
		return NULL;
	kref_init(&buf->ref);
	INIT_LIST_HEAD(&buf->link);
	buf->addr = addr;
	buf->len = len;
	buf->state = VGPU_BUF_CHANGING;
	return buf;
}

/*
 * Adds a buffer that has its pages to its file and has the host map it; drops it
 * if that fails. Takes vgpu_file.lock.
 */
static int vgpu_buf_publish(struct vgpu_file *file, struct vgpu_buf *buf,
			    u32 wire_flags)
{
	int err;

	err = mutex_lock_killable(&file->lock);
	if (err)
		goto put;
	err = vgpu_file_status(file);
	if (!err)
		err = vgpu_buf_insert(file, buf);
	if (err) {
		mutex_unlock(&file->lock);
		goto put;
	}
	err = vgpu_buf_map(file, buf, wire_flags);
	if (!err) {
		vgpu_buf_set_state(file, buf, VGPU_BUF_MAPPED);
	} else {
		if (buf->named)
			vgpu_buf_unmap(file, buf);
		if (!buf->named)
			vgpu_buf_drop(file, buf);
	}
	mutex_unlock(&file->lock);
	return err;

put:
	/* The host was told nothing. */
	vgpu_buf_put(buf);
	return err;
}

/**
 * vgpu_buf_alloc - allocate a buffer and have the host map it
 * @file:	a file with a session
 * @addr:	its address
 * @len:	bytes
 * @flags:	VGPU_BUF_REGISTER or 0
 *
 * Context: process context, sleeps. Takes vgpu_file.lock.
 * Return: 0 or -errno, as VGPU_IOC_ALLOC.
 */
int vgpu_buf_alloc(struct vgpu_file *file, u64 addr, u64 len, u32 flags)
{
	const struct vgpu_limits *limits = &file->dev->limits;
	struct vgpu_buf *buf;
	int err;

	if (flags & ~VGPU_BUF_REGISTER || !len || !PAGE_ALIGNED(addr | len) ||
	    !vgpu_buf_in_arena(file, addr, len))
		return -EINVAL;
	if (len > limits->mapped_len_max - READ_ONCE(file->mapped_len))
		return -ENOSPC;

	buf = vgpu_buf_new(addr, len);
	if (!buf)
		return -ENOMEM;
	err = vgpu_pages_alloc(&buf->pages, len >> PAGE_SHIFT,
			       limits->runs_max - READ_ONCE(file->runs));
	if (err) {
		vgpu_buf_put(buf);
		return err;
	}
	return vgpu_buf_publish(file, buf, flags & VGPU_BUF_REGISTER ?
					   VGPU_WIRE_MAP_REGISTER : 0);
}

/**
 * vgpu_buf_pin - pin memory of the caller's and have the host map it
 * @file:	a file with a session
 * @addr:	where it lies
 * @len:	bytes
 *
 * Context: process context, sleeps. Takes vgpu_file.lock.
 * Return: 0 or -errno, as VGPU_IOC_PIN.
 */
int vgpu_buf_pin(struct vgpu_file *file, u64 addr, u64 len)
{
	const struct vgpu_limits *limits = &file->dev->limits;
	struct vgpu_buf *buf;
	int err;

	if (!len || !PAGE_ALIGNED(addr | len) || len > VGPU_WIRE_WINDOW_END ||
	    addr > VGPU_WIRE_WINDOW_END - len)
		return -EINVAL;
	if (addr < file->window + limits->window_len && addr + len > file->window)
		return -EINVAL;
	if (len > limits->mapped_len_max - READ_ONCE(file->mapped_len))
		return -ENOSPC;

	buf = vgpu_buf_new(addr, len);
	if (!buf)
		return -ENOMEM;
	/* First of all, since it says how the pages are given back. */
	mmgrab(current->mm);
	buf->mm = current->mm;
	err = vgpu_pages_pin(&buf->pages, addr, len >> PAGE_SHIFT,
			     limits->runs_max - READ_ONCE(file->runs));
	if (err) {
		vgpu_buf_put(buf);
		return err;
	}
	return vgpu_buf_publish(file, buf, VGPU_WIRE_MAP_PROGRAM);
}

/**
 * vgpu_buf_free - have the host forget a buffer and give its pages back
 * @file: a file with a session
 * @addr: the buffer's address
 *
 * Context: process context, sleeps. Takes vgpu_file.lock.
 * Return: 0 or -errno, as VGPU_IOC_FREE.
 */
int vgpu_buf_free(struct vgpu_file *file, u64 addr)
{
	struct vgpu_buf *buf;
	int err;

	err = mutex_lock_killable(&file->lock);
	if (err)
		return err;
	err = vgpu_file_status(file);
	if (err)
		goto unlock;

	mutex_lock(&file->bufs_lock);
	buf = vgpu_buf_find(file, addr);
	if (buf && buf->addr == addr && buf->state == VGPU_BUF_MAPPED)
		buf->state = VGPU_BUF_CHANGING;
	else
		err = -ENOENT;
	mutex_unlock(&file->bufs_lock);
	if (err)
		goto unlock;

	err = vgpu_buf_unmap(file, buf);
	if (!err)
		vgpu_buf_drop(file, buf);
	else if (err == -EINVAL || err == -ENOMEM || err == -ENOSPC)
		/* Refused or not even asked: the host has all of it still. */
		vgpu_buf_set_state(file, buf, VGPU_BUF_MAPPED);
unlock:
	mutex_unlock(&file->lock);
	return err;
}

/* Maps pages of a buffer, from @skip on, until the area is full. */
static int vgpu_pages_insert(struct vgpu_pages *pages, unsigned long skip,
			     struct vm_area_struct *vma, struct page **batch)
{
	unsigned long addr = vma->vm_start;

	for (u32 run = 0; run < pages->len && addr < vma->vm_end; run++) {
		unsigned long at = min(skip, pages->runs[run].pages);

		skip -= at;
		while (at < pages->runs[run].pages && addr < vma->vm_end) {
			unsigned long count, left;
			int err;

			count = min3(pages->runs[run].pages - at,
				     (vma->vm_end - addr) >> PAGE_SHIFT,
				     PAGE_SIZE / sizeof(*batch));
			for (unsigned long i = 0; i < count; i++)
				batch[i] = pfn_to_page(pages->runs[run].pfn + at + i);
			left = count;
			err = vm_insert_pages(vma, addr, batch, &left);
			if (err)
				return err;
			if (fatal_signal_pending(current))
				return -EINTR;
			cond_resched();
			at += count;
			addr += count << PAGE_SHIFT;
		}
	}
	return 0;
}

/**
 * vgpu_buf_mmap - map part of a buffer into the caller
 * @file:	a file with a session
 * @vma:	where; its offset is the address in the buffer
 *
 * All pages are mapped at once and are ordinary ones, fit for direct I/O. A
 * child does not inherit the mapping, as it does not inherit the session.
 *
 * Context: process context, mmap_lock held for writing.
 * Return: 0 or -errno.
 */
int vgpu_buf_mmap(struct vgpu_file *file, struct vm_area_struct *vma)
{
	const vm_flags_t flags = VM_MIXEDMAP | VM_DONTEXPAND | VM_DONTDUMP |
				 VM_DONTCOPY;
	u64 addr = (u64)vma->vm_pgoff << PAGE_SHIFT;
	u64 len = vma->vm_end - vma->vm_start;
	struct vgpu_buf *buf;
	struct page **batch;
	u64 skip;
	int err;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	err = vgpu_file_status(file);
	if (err)
		return err;

	mutex_lock(&file->bufs_lock);
	buf = vgpu_buf_find(file, addr);
	if (buf && !buf->mm && buf->state == VGPU_BUF_MAPPED &&
	    len <= buf->len - (addr - buf->addr))
		kref_get(&buf->ref);
	else
		buf = NULL;
	mutex_unlock(&file->bufs_lock);
	if (!buf)
		return -EINVAL;
	skip = (addr - buf->addr) >> PAGE_SHIFT;

	batch = (struct page **)__get_free_page(GFP_KERNEL);
	if (!batch) {
		err = -ENOMEM;
		goto put;
	}
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
	err = vgpu_pages_insert(&buf->pages, skip, vma, batch);
	free_page((unsigned long)batch);
put:
	vgpu_buf_put(buf);
	return err;
}

/**
 * vgpu_buf_drop_all - give all buffers of a file back
 * @file: a file that nobody has open and whose session the host has ended
 *
 * Context: process context.
 */
void vgpu_buf_drop_all(struct vgpu_file *file)
{
	struct vgpu_buf *buf, *next;

	rbtree_postorder_for_each_entry_safe(buf, next, &file->bufs, node)
		vgpu_buf_put(buf);
	file->bufs = RB_ROOT;
}

/**
 * vgpu_buf_orphan_all - keep a file's buffers until the device is reset
 * @file: a file that nobody has open; the host may still use its pages
 *
 * Context: process context.
 */
void vgpu_buf_orphan_all(struct vgpu_file *file)
{
	struct vgpu_device *dev = file->dev;
	struct vgpu_buf *buf, *next;

	mutex_lock(&dev->orphans_lock);
	rbtree_postorder_for_each_entry_safe(buf, next, &file->bufs, node)
		list_add_tail(&buf->link, &dev->orphans);
	file->bufs = RB_ROOT;
	mutex_unlock(&dev->orphans_lock);
	if (completion_done(&dev->reset_done))
		vgpu_buf_drop_orphans(dev);
}

/**
 * vgpu_buf_drop_orphans - give the buffers of closed files back
 * @dev: a device that has been reset
 *
 * Context: process context.
 */
void vgpu_buf_drop_orphans(struct vgpu_device *dev)
{
	struct vgpu_buf *buf, *next;

	mutex_lock(&dev->orphans_lock);
	list_for_each_entry_safe(buf, next, &dev->orphans, link) {
		list_del(&buf->link);
		vgpu_buf_put(buf);
	}
	mutex_unlock(&dev->orphans_lock);
}
