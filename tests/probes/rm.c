/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "rm.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Layouts and numbers as in the driver's open kernel modules (nv_escape.h, nvos.h, ctrl2080fifo.h). */
struct rm_alloc { /* with or without the rights and flags, by the size in the request */
	uint32_t client, parent, object, class;
	uint64_t params;
	union {
		struct {
			uint32_t params_size, status;
		} short_form;
		struct {
			uint64_t rights;
			uint32_t params_size, flags, status;
		} long_form;
	};
};
struct rm_free {
	uint32_t client, parent, object, status;
};
struct rm_control {
	uint32_t client, object, cmd, flags;
	uint64_t params;
	uint32_t params_size, status;
};
struct disable_channels {
	uint8_t disable;
	uint32_t count;
	uint8_t only_scheduling, rewind;
	uint64_t event;
	uint32_t clients[64], channels[64];
};

enum { ESC_FREE = 0x29, ESC_CONTROL = 0x2a, ESC_ALLOC = 0x2b };
enum { CLASS_SUBDEVICE = 0x2080, CLASS_TSG = 0xa06c, CLASS_FIRST_CHANNEL = 0xa06f };
enum { CMD_DISABLE_CHANNELS = 0x2080110b };

struct object {
	uint32_t client, parent, object, class, engine;
	int fd, alive;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct object objects[4096];
static int count, channels_made;
static struct disable_channels stopped;
static struct object stopped_by; /* the subdevice it was asked of */

static int is_channel(uint32_t class)
{
	return class >= CLASS_FIRST_CHANNEL && (class & 0xff) == 0x6f;
}

static void allocated(int fd, const struct rm_alloc *a, size_t size)
{
	uint32_t status = size >= 48 ? a->long_form.status : a->short_form.status;

	if (status || count == sizeof objects / sizeof *objects)
		return;
	if (a->class != CLASS_SUBDEVICE && a->class != CLASS_TSG && !is_channel(a->class))
		return;
	uint32_t engine = a->class == CLASS_TSG && a->params ? ((const uint32_t *)a->params)[3] : 0;
	objects[count++] = (struct object){a->client, a->parent, a->object, a->class, engine, fd, 1};
	channels_made += is_channel(a->class);
}

static void freed(const struct rm_free *f)
{
	if (f->status)
		return;
	for (int i = 0; i < count; i++)
		if (objects[i].client == f->client && (f->object == f->client || objects[i].object == f->object || objects[i].parent == f->object))
			objects[i].alive = 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list a;

	va_start(a, request);
	void *arg = va_arg(a, void *);
	va_end(a);
	int r = syscall(SYS_ioctl, fd, request, arg), e = errno;
	if (!r && _IOC_TYPE(request) == 'F' && (_IOC_NR(request) == ESC_ALLOC || _IOC_NR(request) == ESC_FREE)) {
		pthread_mutex_lock(&lock);
		if (_IOC_NR(request) == ESC_ALLOC)
			allocated(fd, arg, _IOC_SIZE(request));
		else
			freed(arg);
		pthread_mutex_unlock(&lock);
	}
	errno = e;
	return r;
}

/* A channel whose group runs on the graphics and compute engine (engine types 1 to 8). */
static int is_compute(const struct object *c)
{
	if (!c->alive || !is_channel(c->class))
		return 0;
	for (int i = 0; i < count; i++)
		if (objects[i].class == CLASS_TSG && objects[i].client == c->client && objects[i].object == c->parent)
			return objects[i].engine >= 1 && objects[i].engine <= 8;
	return 0;
}

int rm_compute_channels(void)
{
	int n = 0;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < count; i++)
		n += is_compute(&objects[i]);
	pthread_mutex_unlock(&lock);
	return n;
}

int rm_channels_made(void)
{
	return channels_made;
}

static uint32_t control(const struct object *o, uint32_t cmd, void *params, uint32_t size)
{
	struct rm_control c = {o->client, o->object, cmd, 0, (uint64_t)params, size, 0};

	return syscall(SYS_ioctl, o->fd, _IOWR('F', ESC_CONTROL, struct rm_control), &c) ? 0xE0000000u | errno : c.status;
}

static uint32_t set_stopped(int on)
{
	stopped.disable = on;
	return control(&stopped_by, CMD_DISABLE_CHANNELS, &stopped, sizeof stopped);
}

uint32_t rm_stop(void)
{
	memset(&stopped, 0, sizeof stopped);
	memset(&stopped_by, 0, sizeof stopped_by);
	pthread_mutex_lock(&lock);
	for (int i = 0; i < count && stopped.count < 64; i++)
		if (is_compute(&objects[i])) {
			stopped.clients[stopped.count] = objects[i].client;
			stopped.channels[stopped.count++] = objects[i].object;
		}
	for (int i = 0; i < count && !stopped_by.alive; i++)
		if (objects[i].alive && objects[i].class == CLASS_SUBDEVICE && objects[i].client == stopped.clients[0])
			stopped_by = objects[i];
	pthread_mutex_unlock(&lock);
	return stopped.count && stopped_by.alive ? set_stopped(1) : 0xE0000000u | ESRCH;
}

uint32_t rm_resume(void)
{
	return set_stopped(0);
}
