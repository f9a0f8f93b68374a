/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * If a process leaves libcuda only one window of addresses (and a range low down, which libcuda
 * needs for itself), does every address that a program can learn lie in the window? And what must
 * stay free for the process to live: stacks, malloc, threads?
 */
#include "common.h"

#include <sys/resource.h>

#define TOP 0x7ffffffff000ull
#define FIRST 0x10000ull
#define REGISTERED 0x500000000000ull /* outside all windows: where the host maps guest pages */

struct range {
	uint64_t lo, hi;
};
struct confinement {
	const char *name;
	struct range window, low;
	int in_full; /* name also what lies where it should */
};
static struct confinement conf;

/* --- /proc/self/maps ------------------------------------------------------------------------ */

#define MAX_MAPS 8192
struct map {
	struct range r;
	int nvidia, stack;
};
struct maps {
	struct map m[MAX_MAPS];
	int n;
};
static struct maps at_start, with_us, at_end;

static void read_maps(struct maps *maps)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[600];

	SYS(f != NULL);
	maps->n = 0;
	while (fgets(line, sizeof line, f) && maps->n < MAX_MAPS) {
		unsigned long lo, hi;

		if (sscanf(line, "%lx-%lx", &lo, &hi) != 2 || lo >= TOP)
			continue;
		maps->m[maps->n++] = (struct map){{lo, hi}, strstr(line, "/dev/nvidia") != NULL, strstr(line, "[stack]") != NULL};
	}
	fclose(f);
}

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Takes [lo, hi) except what lies in the `n` sorted free ranges. Returns how many mappings that took, or -1. */
static int take(uint64_t lo, uint64_t hi, const struct range *keep, int n)
{
	int taken = 0;

	for (int i = 0; i <= n && lo < hi; i++) {
		uint64_t end = i < n ? min64(hi, max64(lo, keep[i].lo)) : hi;

		if (end > lo) {
			void *p = mmap((void *)lo, end - lo, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
			if (p != (void *)lo)
				return -1;
			taken++;
		}
		if (i < n)
			lo = max64(lo, keep[i].hi);
	}
	return taken;
}

/* Takes every free address below TOP outside the low range, the window and the room below the stack. */
static void confine(void)
{
	struct range keep[3] = {conf.low, conf.window, {0, 0}};
	struct rlimit stack;
	uint64_t at = FIRST;
	int taken = 0;
	double t = now();

	read_maps(&at_start);
	getrlimit(RLIMIT_STACK, &stack);
	for (int i = 0; i < at_start.n; i++)
		if (at_start.m[i].stack) {
			uint64_t lo = at_start.m[i].r.lo, room = min64(stack.rlim_cur, 64 * MIB) + MIB;
			keep[2] = (struct range){lo - room, lo};
		}
	SYS(keep[2].lo > conf.window.hi);
	for (int i = 0; i <= at_start.n; i++) {
		int n = take(at, i < at_start.n ? max64(at, at_start.m[i].r.lo) : TOP, keep, 3);
		SYS(n >= 0);
		taken += n;
		if (i < at_start.n)
			at = max64(at, at_start.m[i].r.hi);
	}
	t = now() - t;
	read_maps(&with_us);
	if (conf.in_full)
		row("confined", "window %#llx + %llu GiB, low %llu..%llu GiB: %d mappings, %.2f ms", (unsigned long long)conf.window.lo,
		    (unsigned long long)((conf.window.hi - conf.window.lo) / GIB), (unsigned long long)(conf.low.lo / GIB),
		    (unsigned long long)(conf.low.hi / GIB), taken, t * 1e3);
}

/* --- where things are ----------------------------------------------------------------------- */

static char inside[900], low[500], outside[900], refused[500];

static void append(char *list, size_t size, const char *fmt, ...)
{
	size_t n = strlen(list);
	va_list a;

	va_start(a, fmt);
	vsnprintf(list + n, size - n, fmt, a);
	va_end(a);
}

static int in(uint64_t a, struct range r)
{
	return a >= r.lo && a < r.hi;
}

static void note(const char *what, CUresult r, uint64_t a)
{
	if (r)
		append(refused, sizeof refused, "%s=%s ", what, err(r));
	else if (in(a, conf.window))
		append(inside, sizeof inside, "%s ", what);
	else if (in(a, conf.low))
		append(low, sizeof low, "%s=%#llx ", what, (unsigned long long)a);
	else
		append(outside, sizeof outside, "%s=%#llx ", what, (unsigned long long)a);
}

static void report(void)
{
	int n = 0;
	for (const char *c = inside; *c; c++)
		n += *c == ' ';
	row("in the window", "%d kinds: %s", n, conf.in_full ? inside : "as above, but for those below");
	if (*low)
		row("in the low range", "%s", low);
	row("OUTSIDE both", "%s", *outside ? outside : "nothing");
	if (*refused)
		row("!! REFUSED", "%s", refused);
}

/* Mappings made since the confinement: how much where, and driver mappings outside the window. */
static void report_maps(void)
{
	uint64_t window = 0, in_low = 0, lo = ~0ull, hi = 0;
	int elsewhere = 0, nvidia = 0;
	struct range first = {0, 0};

	read_maps(&at_end);
	for (int i = 0; i < at_end.n; i++) {
		struct range r = at_end.m[i].r;
		int known = 0;

		if (in(r.lo, conf.window)) {
			window += r.hi - r.lo;
			continue;
		}
		nvidia += at_end.m[i].nvidia;
		for (int j = 0; j < with_us.n && !known; j++)
			known = r.lo >= with_us.m[j].r.lo && r.hi <= with_us.m[j].r.hi;
		if (known || r.lo == REGISTERED || at_end.m[i].stack)
			continue;
		if (in(r.lo, conf.low)) {
			in_low += r.hi - r.lo;
			lo = min64(lo, r.lo);
			hi = max64(hi, r.hi);
		} else if (!elsewhere++) {
			first = r;
		}
	}
	row("new mappings", "window %.1f GiB; low %.1f GiB in %#llx..%#llx; elsewhere %d (first %#llx..%#llx); driver's outside the window %d",
	    (double)window / GIB, (double)in_low / GIB, (unsigned long long)(hi ? lo : 0), (unsigned long long)hi, elsewhere,
	    (unsigned long long)first.lo, (unsigned long long)first.hi, nvidia);
}

/* --- a module with a global, printf, device malloc, and the generic addresses a kernel sees --- */

static const char ptx[] =
	".version 7.8\n"
	".target sm_80\n"
	".address_size 64\n"
	".extern .func (.param .b32 status) vprintf (.param .b64 format, .param .b64 values);\n"
	".extern .func (.param .b64 result) malloc (.param .b64 size);\n"
	".visible .global .align 8 .b8 table[1048576];\n"
	".global .align 1 .b8 text[8] = {112, 114, 105, 110, 116, 101, 100, 0};\n" /* "printed" */
	".visible .entry addresses(.param .u64 p_out)\n"
	"{\n"
	"	.local .align 8 .b8 frame[64];\n"
	"	.shared .align 8 .b8 tile[64];\n"
	"	.reg .b32 %r<2>;\n"
	"	.reg .b64 %d<8>;\n"
	"	ld.param.u64 %d0, [p_out];\n"
	"	mov.u64 %d1, tile;\n"
	"	cvta.shared.u64 %d1, %d1;\n"
	"	st.u64 [%d0], %d1;\n"
	"	mov.u64 %d2, frame;\n"
	"	cvta.local.u64 %d2, %d2;\n"
	"	st.u64 [%d2], %d0;\n"
	"	st.u64 [%d0+8], %d2;\n"
	"	mov.u64 %d3, table;\n"
	"	cvta.global.u64 %d3, %d3;\n"
	"	st.u64 [%d0+16], %d3;\n"
	"	{\n"
	"	.param .b64 size;\n"
	"	.param .b64 result;\n"
	"	st.param.b64 [size], 4096;\n"
	"	call.uni (result), malloc, (size);\n"
	"	ld.param.b64 %d4, [result];\n"
	"	}\n"
	"	st.u64 [%d0+24], %d4;\n"
	"	mov.u64 %d5, text;\n"
	"	cvta.global.u64 %d5, %d5;\n"
	"	{\n"
	"	.param .b64 format;\n"
	"	.param .b64 values;\n"
	"	.param .b32 status;\n"
	"	st.param.b64 [format], %d5;\n"
	"	st.param.b64 [values], 0;\n"
	"	call.uni (status), vprintf, (format, values);\n"
	"	ld.param.b32 %r0, [status];\n"
	"	}\n"
	"	ret;\n"
	"}\n";

static int printf_arrives, registered_same;

static void module_addresses(struct gpu *g)
{
	CUmodule mod;
	CUfunction fn;
	CUdeviceptr table, out;
	size_t size;
	uint64_t seen[4] = {0};
	char text[64] = "";
	int end[2], saved = dup(STDOUT_FILENO);

	(void)g;
	CUresult r = cuModuleLoadData(&mod, ptx);
	if (r) {
		note("module", r, 0);
		return;
	}
	r = cuModuleGetGlobal(&table, &size, mod, "table");
	note("global", r, r ? 0 : table);
	CK(cuCtxSetLimit(CU_LIMIT_PRINTF_FIFO_SIZE, 64 * MIB));
	CK(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 256 * MIB));
	CK(cuModuleGetFunction(&fn, mod, "addresses"));
	CK(cuMemAlloc(&out, 4096));
	void *args[] = {&out};
	SYS(pipe(end) == 0 && fcntl(end[0], F_SETFL, O_NONBLOCK) == 0);
	dup2(end[1], STDOUT_FILENO);
	r = cuLaunchKernel(fn, 1, 1, 1, 1, 1, 1, 0, NULL, args, NULL);
	if (!r)
		r = cuCtxSynchronize();
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	ssize_t n = read(end[0], text, sizeof text - 1);
	if (!r)
		r = cuMemcpyDtoH(seen, out, sizeof seen);
	note("k:shared", r, seen[0]);
	note("k:local", r, seen[1]);
	note("k:global", r, seen[2]);
	note("k:malloc", r, seen[3]);
	printf_arrives = n > 0 && !strcmp(text, "printed");
}

/* --- every kind of allocation ---------------------------------------------------------------- */

static const CUmemLocation device = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0};

static CUresult vmm_map(CUdeviceptr *va, CUmemGenericAllocationHandle h, uint64_t size)
{
	CUmemAccessDesc access = {device, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUresult r = cuMemAddressReserve(va, size, 0, 0, 0);

	if (!r)
		r = cuMemMap(*va, size, 0, h, 0);
	return r ? r : cuMemSetAccess(*va, size, &access, 1);
}

static CUmemAllocationProp vmm_prop(void)
{
	CUmemAllocationProp p = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = device};

	p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	return p;
}

static void graph_memory(CUstream s)
{
	CUgraph graph = NULL;
	CUgraphExec exec;
	CUdeviceptr d = 0;
	static uint32_t result;

	result = 0;
	CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED));
	CUresult r = cuMemAllocAsync(&d, 2 * MIB, s);
	note("graph:captured", r, d);
	if (!r) {
		cuMemsetD32Async(d, 4711, 2 * MIB / 4, s);
		cuMemcpyDtoHAsync(&result, d + MIB, 4, s);
		cuMemFreeAsync(d, s);
	}
	CK(cuStreamEndCapture(s, &graph));
	CK(cuGraphInstantiate(&exec, graph, 0));
	CK(cuGraphLaunch(exec, s));
	CK(cuStreamSynchronize(s));
	if (result != 4711)
		append(refused, sizeof refused, "graph-result-WRONG ");

	CUDA_MEM_ALLOC_NODE_PARAMS p = {.poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = device}, .bytesize = 64 * MIB};
	CUgraphNode node;
	CK(cuGraphCreate(&graph, 0));
	r = cuGraphAddMemAllocNode(&node, graph, NULL, 0, &p);
	note("graph:node", r, p.dptr);
}

static void allocations(struct gpu *g)
{
	static const struct {
		uint64_t size;
		const char *name;
	} sizes[] = {{4 * KIB, "alloc4K"}, {MIB, "alloc1M"}, {64 * MIB, "alloc64M"}, {8 * GIB, "alloc8G"}, {40 * GIB, "alloc40G"}};
	CUdeviceptr d = 0;
	CUmemoryPool pool;
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = device};
	CUmemGenericAllocationHandle h;
	CUmemAllocationProp prop = vmm_prop();
	CUstream s;
	CUresult r;
	void *host = NULL;
	size_t pitch;

	CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		r = cuMemAlloc(&d, sizes[i].size);
		note(sizes[i].name, r, d);
		if (!r && sizes[i].size > GIB)
			CK(cuMemFree(d));
	}
	r = cuMemAllocPitch(&d, &pitch, 1000, 1000, 4);
	note("pitch", r, d);
	r = cuMemHostAlloc(&host, 64 * MIB, CU_MEMHOSTALLOC_PORTABLE);
	note("hostalloc", r, (uint64_t)host);
	r = cuMemAllocAsync(&d, MIB, s);
	note("async1M", r, d);
	r = cuMemAllocAsync(&d, 512 * MIB, s);
	note("async512M", r, d);
	r = cuMemPoolCreate(&pool, &props);
	if (!r)
		r = cuMemAllocFromPoolAsync(&d, 64 * MIB, pool, s);
	note("ownpool", r, d);
	CK(cuStreamSynchronize(s));
	graph_memory(s);

	r = cuMemAddressReserve(&d, 64 * GIB, 0, 0, 0);
	note("reserve64G", r, d);
	uint64_t hint = conf.window.lo + (conf.window.hi - conf.window.lo) / 2;
	r = cuMemAddressReserve(&d, GIB, 0, hint, 0);
	note(d == hint ? "reserve-hint-in(given)" : "reserve-hint-in(NOT-given)", r, d);
	r = cuMemAddressReserve(&d, GIB, 0, 0x600000000000ull, 0);
	note("reserve-hint-out", r, d);
	CK(cuMemCreate(&h, 64 * MIB, &prop, 0));
	r = vmm_map(&d, h, 64 * MIB);
	note("vmm", r, d);
	module_addresses(g);

	/* guest pages: mapped over our own reservation, outside the window */
	int fd = memory_file(64 * MIB);
	CUdeviceptr same = 0;
	void *at = mmap((void *)REGISTERED, 64 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	SYS(at == (void *)REGISTERED);
	r = cuMemHostRegister(at, 64 * MIB, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
	if (!r)
		r = cuMemHostGetDevicePointer(&same, at, 0);
	if (r)
		note("register", r, 0);
	registered_same = !r && same == REGISTERED;
}

/* --- does the process itself still live? ------------------------------------------------------ */

static uint64_t thread_stack[32], thread_heap[32];

static void *thread_lives(void *arg)
{
	long i = (long)arg;
	char local[256 * KIB];

	memset(local, (int)i, sizeof local);
	thread_stack[i] = (uint64_t)local;
	for (int k = 0; k < 2000; k++) {
		char *p = malloc(1000);
		if (!p)
			return (void *)1;
		memset(p, k, 1000);
		thread_heap[i] = (uint64_t)p;
	}
	return (void *)(long)(local[i] != (char)i);
}

static __attribute__((noinline)) int deep(int frames)
{
	volatile char page[4096];

	page[0] = (char)frames;
	return frames ? deep(frames - 1) + page[0] : 0;
}

static void process_lives(void)
{
	pthread_t th[32];
	int created = 0, bad = 0;
	uint64_t grown = 0, big;

	for (long i = 0; i < 32; i++)
		created += pthread_create(&th[created], NULL, thread_lives, (void *)i) == 0;
	for (int i = 0; i < created; i++) {
		void *r = NULL;
		pthread_join(th[i], &r);
		bad += r != NULL;
	}
	for (int i = 0; i < 200000; i++) { /* 40 MiB in small pieces: brk cannot grow */
		char *p = malloc(200);
		if (!p) {
			bad++;
			break;
		}
		*p = 1;
		grown = (uint64_t)p;
	}
	big = (uint64_t)malloc(256 * MIB);
	note("thread-stack", created ? 0 : CUDA_ERROR_UNKNOWN, thread_stack[0]);
	note("thread-malloc", created ? 0 : CUDA_ERROR_UNKNOWN, thread_heap[0]);
	note("malloc200B", 0, grown);
	note("malloc256M", big ? 0 : CUDA_ERROR_OUT_OF_MEMORY, big);
	volatile int depth = deep(1400); /* 5.6 MiB */
	(void)depth;
	row("process lives", "%d of 32 threads, %d failures, main stack grew; kernel's printf %s; guest pages registered outside the window: %s", created, bad,
	    printf_arrives ? "arrives" : "LOST", registered_same ? "same address" : "FAIL");
}

static void confined(void *arg)
{
	struct gpu g;
	double t;

	conf = *(struct confinement *)arg;
	confine();
	t = now();
	CUresult r = cuInit(0);
	double init = now() - t;
	if (r) {
		row("cuInit", "%s, %.0f ms", err(r), init * 1e3);
		return;
	}
	t = now();
	gpu_open(&g);
	row("cuInit; context and kernels", "%.0f ms; %.0f ms", init * 1e3, (now() - t) * 1e3);
	allocations(&g);
	process_lives();
	report();
	report_maps();
}

/* --- memory passed between two confined processes --------------------------------------------- */

#define SHARED_SIZE (64 * MIB)
static int sock[2];

struct offer {
	CUipcMemHandle ipc;
	CUdeviceptr legacy, vmm;
};

static void exporter(void *arg)
{
	struct gpu g;
	struct offer o;
	CUmemAllocationProp prop = vmm_prop();
	CUmemGenericAllocationHandle h;
	int fd = -1;
	char done;

	(void)arg;
	confine();
	gpu_open(&g);
	CK(cuMemAlloc(&o.legacy, SHARED_SIZE));
	CK(cuMemsetD32(o.legacy, 1111, SHARED_SIZE / 4));
	CK(cuMemCreate(&h, SHARED_SIZE, &prop, 0));
	CK(vmm_map(&o.vmm, h, SHARED_SIZE));
	CK(cuMemsetD32(o.vmm, 2222, SHARED_SIZE / 4));
	CK(cuCtxSynchronize());
	CK(cuIpcGetMemHandle(&o.ipc, o.legacy));
	CK(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	SYS(write(sock[0], &o, sizeof o) == sizeof o);
	SYS(send_fds(sock[0], &fd, 1) == 1);
	SYS(read(sock[0], &done, 1) == 1);
}

static void shared(void *arg)
{
	struct gpu g;
	struct offer o;
	CUdeviceptr d = 0, va = 0;
	CUmemGenericAllocationHandle h;
	uint32_t word = 0;
	int fd = -1;
	double t;

	conf = *(struct confinement *)arg;
	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, sock) == 0);
	pid_t p = spawn(exporter, NULL);
	close(sock[0]);
	confine();
	gpu_open(&g);
	SYS(recv(sock[1], &o, sizeof o, MSG_WAITALL) == sizeof o);
	SYS(recv_fds(sock[1], &fd, 1) == 1);

	t = now();
	CUresult r = cuIpcOpenMemHandle(&d, o.ipc, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	t = now() - t;
	if (!r)
		r = cuMemcpyDtoH(&word, d + SHARED_SIZE - 4, 4);
	row("cuIpcOpenMemHandle", "%s %#llx %s (exporter has %#llx), %.1f ms, data %s", err(r), d, in(d, conf.window) ? "in the window" : "OUTSIDE",
	    o.legacy, t * 1e3, word == 1111 ? "right" : "WRONG");
	t = now();
	r = cuMemImportFromShareableHandle(&h, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	t = now() - t;
	if (!r)
		r = vmm_map(&va, h, SHARED_SIZE);
	if (!r)
		r = cuMemcpyDtoH(&word, va + SHARED_SIZE - 4, 4);
	row("imported shareable handle", "%s %#llx %s (exporter has %#llx), %.1f ms, data %s", err(r), va, in(va, conf.window) ? "in the window" : "OUTSIDE",
	    o.vmm, t * 1e3, word == 2222 ? "right" : "WRONG");
	SYS(write(sock[1], "", 1) == 1);
	waitpid(p, NULL, 0);
}

int main(void)
{
	const struct range below_64g = {FIRST, 64 * GIB};
	const uint64_t w = 0x400000000000ull;
	struct confinement all[] = {
		{"window 0x4000..., low 0-64G", {w, w + 4 * TIB}, below_64g, 1},
		{"window 0x1000...", {0x100000000000ull, 0x100000000000ull + 4 * TIB}, below_64g, 0},
		{"window 0x2000...", {0x200000000000ull, 0x200000000000ull + 4 * TIB}, below_64g, 0},
		{"window 0x7000...", {0x700000000000ull, 0x700000000000ull + 4 * TIB}, below_64g, 0},
		{"window 256 GiB, low 0-64G", {w, w + 256 * GIB}, below_64g, 0},
		{"low 16-64G", {w, w + 4 * TIB}, {16 * GIB, 64 * GIB}, 0},
		{"low 8-16G", {w, w + 4 * TIB}, {8 * GIB, 16 * GIB}, 0},
		{"low 8G-12G+2M", {w, w + 4 * TIB}, {8 * GIB, 12 * GIB + 2 * MIB}, 0},
		{"low none", {w, w + 4 * TIB}, {FIRST, FIRST}, 0},
	};

	probe("confine");
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		run_case(all[i].name, 15, confined, &all[i]);
	run_case("shared memory, both confined", 15, shared, &all[0]);
	return 0;
}
