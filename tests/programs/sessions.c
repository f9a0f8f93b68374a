// SPDX-License-Identifier: Apache-2.0 OR MIT
// Holds as many sessions as the VM may have, in one process, through the driver's own interface, until it is killed.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

// As uapi/vgpu.h of the driver has them.
struct info {
    uint32_t abi_version, wire_version, sessions_max, rings_max, runs_max, page_len;
    uint64_t mapped_len_max, window_len, arena_len;
};
struct open {
    uint32_t windows_len, wait_s;
    uint64_t windows[8], window;
    uint32_t session, status;
};

int main(void) {
    struct info info;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint32_t count = 0;; count++) {
        struct open arguments = {.windows_len = 1, .windows = {0x400000000000}};
        int file = open("/dev/vgpu", O_RDWR | O_CLOEXEC);
        if (file < 0 || ioctl(file, _IOR('V', 0x40, struct info), &info)) {
            perror("sessions: /dev/vgpu");
            return 1;
        }
        if (ioctl(file, _IOWR('V', 0x41, struct open), &arguments)) {
            int right = count == info.sessions_max && arguments.status == 3 /* a limit */ && arguments.wait_s == 0;
            printf("sessions: %s: %u of %u, status %u\n", right ? "all that there are" : "refused", count,
                   info.sessions_max, arguments.status);
            if (!right)
                return 1;
            for (;;)
                pause();
        }
    }
}
