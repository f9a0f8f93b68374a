// How programs start and end: a child that is forked before, one that runs another program, exit with work under way,
// exit in a thread, CUDA after main, two libraries' worth of destructors.
#include "compat.h"
#include <sys/wait.h>
#include <thread>

__global__ void spin(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) {
    }
}
__global__ void set(int *p, int v) { *p = v; }

static int use(int v) {
    int *p = compat::zeros<int>(1);
    set<<<1, 1>>>(p, v);
    CHECK(cudaDeviceSynchronize());
    return compat::fetch(p, 1)[0];
}

struct Late {
    int *memory = nullptr;
    ~Late() {
        // The runtime may be gone; it must say so and not crash.
        if (memory) cudaFree(memory);
    }
} late;

static int run(const std::string &how) {
    if (how == "plain") return use(5) == 5 ? 0 : 9;
    if (how == "busy") {
        use(1);
        spin<<<1, 1>>>(1000000000);
        return 0;
    }
    if (how == "exit in a thread") {
        use(1);
        std::thread([] {
            use(2);
            exit(3);
        }).join();
    }
    if (how == "late") {
        CHECK(cudaMalloc(&late.memory, 100));
        atexit([] { cudaDeviceSynchronize(); });
        return 4;
    }
    if (how == "_exit") {
        use(1);
        _exit(5);
    }
    if (how == "abort") {
        use(1);
        abort();
    }
    if (how == "detached") {
        std::thread([] {
            for (;;) use(3);
        }).detach();
        usleep(200000);
        _exit(6);
    }
    return 99;
}

int main(int count, char **arguments) {
    if (count > 1) return run(arguments[1]);
    int order = 0;
    for (std::string how : {"plain", "busy", "exit in a thread", "late", "_exit", "abort", "detached", "plain"}) {
        pid_t child = fork();
        if (child == 0) {
            execl("/proc/self/exe", arguments[0], how.c_str(), nullptr);
            _exit(98);
        }
        int status = -1;
        EXPECT(waitpid(child, &status, 0) == child);
        save(std::to_string(order++) + " " + how, WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status)) : "exit " + std::to_string(WEXITSTATUS(status)));
    }
    pid_t child = fork();
    if (child == 0) _exit(use(7) == 7 ? 0 : 1);
    int status = -1;
    EXPECT(waitpid(child, &status, 0) == child);
    save("forked before", status);
    EXPECT(use(8) == 8);
    // Forked after: CUDA is of no use there, and says so.
    child = fork();
    if (child == 0) {
        int *p = nullptr;
        cudaError_t failed = cudaMalloc(&p, 100);
        _exit(int(failed) & 0x7f);
    }
    EXPECT(waitpid(child, &status, 0) == child);
    save("forked after", WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status)) : "exit " + std::to_string(WEXITSTATUS(status)));
    EXPECT(use(9) == 9);
    std::printf("processes: done\n");
}
