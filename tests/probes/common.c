/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "common.h"

#include <sys/prctl.h>

static const char *probe_name = "?", *case_name = "?";

static const char ptx[] =
	".version 7.8\n"
	".target sm_80\n"
	".address_size 64\n"
	".visible .entry null_kernel() { ret; }\n"
	".visible .entry work_kernel(.param .u64 p_iters, .param .u64 p_out, .param .u64 p_progress)\n"
	"{\n"
	"	.reg .pred %p<4>;\n"
	"	.reg .b32 %r<6>;\n"
	"	.reg .b64 %d<8>;\n"
	"	ld.param.u64 %d0, [p_iters];\n"
	"	ld.param.u64 %d1, [p_out];\n"
	"	ld.param.u64 %d2, [p_progress];\n"
	"	mov.u32 %r0, %tid.x;\n"
	"	mov.u32 %r1, %ctaid.x;\n"
	"	mov.u32 %r2, %ntid.x;\n"
	"	mad.lo.u32 %r3, %r1, %r2, %r0;\n"
	"	mov.u32 %r4, %r3;\n"
	"	mov.u64 %d3, 0;\n"
	"NEXT:\n"
	"	setp.ge.u64 %p0, %d3, %d0;\n"
	"	@%p0 bra DONE;\n"
	"	mad.lo.u32 %r4, %r4, 1664525, 1013904223;\n"
	"	add.u64 %d3, %d3, 1;\n"
	"	and.b64 %d4, %d3, 65535;\n"
	"	setp.ne.u64 %p1, %d4, 0;\n"
	"	@%p1 bra NEXT;\n"
	"	setp.ne.u32 %p2, %r3, 0;\n"
	"	@%p2 bra NEXT;\n"
	"	st.volatile.u64 [%d2], %d3;\n"
	"	bra NEXT;\n"
	"DONE:\n"
	"	mul.wide.u32 %d5, %r3, 4;\n"
	"	add.u64 %d6, %d1, %d5;\n"
	"	st.u32 [%d6], %r4;\n"
	"	ret;\n"
	"}\n";

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

void sleep_ms(double ms)
{
	usleep((useconds_t)(ms * 1e3));
}

const char *err(CUresult r)
{
	static __thread char other[32];
	const char *s = NULL;

	if (cuGetErrorName(r, &s) == CUDA_SUCCESS && s)
		return strncmp(s, "CUDA_", 5) ? s : s + 5;
	snprintf(other, sizeof other, "error %d", r);
	return other;
}

void row(const char *what, const char *fmt, ...)
{
	char line[1400];
	int n = snprintf(line, sizeof line, "%s\t%s\t%s\t", probe_name, case_name, what);
	va_list a;

	va_start(a, fmt);
	n += vsnprintf(line + n, sizeof line - n, fmt, a);
	va_end(a);
	if (n > (int)sizeof line - 2)
		n = sizeof line - 2;
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, n) != n)
		_exit(3);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

void row_us(const char *what, double *v, int n)
{
	if (n < 1) {
		row(what, "no sample");
		return;
	}
	qsort(v, n, sizeof *v, by_value);
	row(what, "p50 %.2f p99 %.2f max %.1f us (n %d)", v[n / 2] * 1e6, v[(int)(n * 0.99)] * 1e6, v[n - 1] * 1e6, n);
}

void must(CUresult r, const char *call, int line)
{
	if (r == CUDA_SUCCESS)
		return;
	row("!! CALL FAILED", "%s: %.120s (line %d)", err(r), call, line);
	_exit(2);
}

void must_sys(int ok, const char *call, int line)
{
	if (ok)
		return;
	row("!! CHECK FAILED", "%.120s (line %d; errno: %s)", call, line, strerror(errno));
	_exit(2);
}

void gpu_open(struct gpu *g)
{
	CK(cuInit(0));
	CK(cuDeviceGet(&g->dev, 0));
	CK(cuCtxCreate(&g->ctx, NULL, 0, g->dev));
	CK(cuModuleLoadData(&g->mod, ptx));
	CK(cuModuleGetFunction(&g->null, g->mod, "null_kernel"));
	CK(cuModuleGetFunction(&g->work, g->mod, "work_kernel"));
	CK(gpu_null(g, NULL));
	CK(cuCtxSynchronize());
}

CUresult gpu_null(struct gpu *g, CUstream s)
{
	return cuLaunchKernel(g->null, 1, 1, 1, 1, 1, 1, 0, s, NULL, NULL);
}

CUresult gpu_work(struct gpu *g, CUstream s, uint64_t iters, int blocks, CUdeviceptr out, CUdeviceptr progress)
{
	void *args[] = {&iters, &out, &progress};

	return cuLaunchKernel(g->work, blocks, 1, 1, 256, 1, 1, 0, s, args, NULL);
}

uint32_t work_result(uint32_t id, uint64_t iters)
{
	uint32_t a = 1664525, c = 1013904223; /* one step x -> a x + c, then 2, 4, 8 ... steps */

	for (; iters; iters >>= 1) {
		if (iters & 1)
			id = a * id + c;
		c = a * c + c;
		a *= a;
	}
	return id;
}

double work_rate(struct gpu *g)
{
	const uint64_t iters = 20000000;
	CUdeviceptr out;
	double t = 0;

	CK(cuMemAlloc(&out, 4096));
	for (int i = 0; i < 2; i++) { /* the first run warms up */
		t = now();
		CK(gpu_work(g, NULL, iters, 1, out, out + 2048));
		CK(cuCtxSynchronize());
		t = now() - t;
	}
	CK(cuMemFree(out));
	return iters / t;
}

int memory_file(uint64_t size)
{
	int fd = memfd_create("probe", MFD_CLOEXEC);

	SYS(fd >= 0);
	SYS(ftruncate(fd, size) == 0);
	return fd;
}

void *map_file(int fd, uint64_t size, void *at)
{
	void *p = mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED_NOREPLACE : 0), fd, 0);

	SYS(p != MAP_FAILED);
	return p;
}

void *shared_page(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	SYS(p != MAP_FAILED);
	return p;
}

pid_t spawn(void (*fn)(void *), void *arg)
{
	pid_t parent = getpid(), p = fork();

	SYS(p >= 0);
	if (p)
		return p;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(4);
	fn(arg);
	_exit(0);
}

#define MAX_FDS 200

int send_fds(int sock, const int *fds, int n)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
	} control = {0};
	char byte = 0;
	struct iovec io = {&byte, 1};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};

	if (n > MAX_FDS)
		return -1;
	if (n) {
		m.msg_control = control.bytes;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	return sendmsg(sock, &m, 0) == 1 ? n : -1;
}

int recv_fds(int sock, int *fds, int max)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
	} control = {0};
	char byte;
	struct iovec io = {&byte, 1};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};

	if (recvmsg(sock, &m, 0) != 1)
		return -1;
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return 0;
	int n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	if (n > max)
		return -1;
	memcpy(fds, CMSG_DATA(c), sizeof(int) * n);
	return n;
}

void probe(const char *name)
{
	probe_name = name;
	setvbuf(stdout, NULL, _IONBF, 0);
}

/* Waits up to `seconds` for a child; 1 if it was reaped. */
static int reaped(pid_t p, int *status, double seconds)
{
	double end = now() + seconds;

	do {
		if (waitpid(p, status, WNOHANG) == p)
			return 1;
		sleep_ms(2);
	} while (now() < end);
	return 0;
}

void run_case(const char *name, int timeout_s, void (*fn)(void *), void *arg)
{
	int status = 0;
	double t = now();

	case_name = name;
	pid_t p = fork();
	SYS(p >= 0);
	if (!p) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		alarm(timeout_s);
		fn(arg);
		_exit(0);
	}
	setpgid(p, p);
	int in_time = reaped(p, &status, timeout_s + 1);
	kill(-p, SIGKILL); /* whatever the case left behind */
	if (!in_time && !reaped(p, &status, 8))
		row("!! NOT REAPED", "8 s after SIGKILL: stuck in the driver");
	else if (!in_time || (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM))
		row("!! TIMED OUT", "killed after %d s", timeout_s);
	else if (WIFSIGNALED(status))
		row("!! DIED", "signal %d (%s) after %.1f s", WTERMSIG(status), strsignal(WTERMSIG(status)), now() - t);
}
