// SPDX-License-Identifier: Apache-2.0 OR MIT
// Two processes of one program that pass each other descriptors and what belongs to them over a Unix socket.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

// What a call of the system must give.
#define MUST(condition)                                                                                            \
    do {                                                                                                           \
        if (!(condition)) {                                                                                        \
            printf("%s:%d: %s: %s\n", __FILE_NAME__, __LINE__, #condition, strerror(errno));                           \
            exit(1);                                                                                               \
        }                                                                                                          \
    } while (0)

// A message: bytes, and a descriptor unless that is -1.
static inline void pass(int socket, const void *bytes, size_t len, int descriptor) {
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec vector = {(void *)bytes, len};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    MUST(sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)len);
}

// The next message; its descriptor, or -1.
static inline int take(int socket, void *bytes, size_t len) {
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec vector = {bytes, len};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    int descriptor = -1;
    MUST(recvmsg(socket, &message, 0) == (ssize_t)len);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS)
        memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
    return descriptor;
}

// A word, for "go on".
static inline void go_on(int socket) { pass(socket, "!", 1, -1); }
static inline void wait_for_it(int socket) {
    char word;
    take(socket, &word, 1);
}

// The other process, which runs this program with `--other`, what it is to do, and the number of its end of a socket.
struct other {
    pid_t pid;
    int socket;
};

// With that socket of a VM's backend, if one is given.
static inline struct other start_other(const char *what, const char *vgpu_socket) {
    int ends[2];
    char number[16];
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    fflush(stdout);
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        snprintf(number, sizeof number, "%d", ends[1]);
        if (fcntl(ends[1], F_SETFD, 0) != 0 || (vgpu_socket != NULL && setenv("VGPU_SOCKET", vgpu_socket, 1) != 0))
            _exit(126);
        execl("/proc/self/exe", "other", "--other", what, number, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    return (struct other){pid, ends[0]};
}

// It must have ended well.
static inline void end_other(struct other other) {
    int status = -1;
    close(other.socket);
    MUST(waitpid(other.pid, &status, 0) == other.pid);
    if (status != 0) {
        printf("the other process ended with %#x\n", status);
        exit(1);
    }
}
