/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Clients who knock once, without a second try, and measure when the port opens for them.
 *
 *   probe DESTINATION PORT FIRST-SOURCE CLIENTS STRIDE-MS GAP-MS SPACING-US PATIENCE-MS KNOCK...
 *
 * Each of CLIENTS has an address of its own, counted up from FIRST-SOURCE, and knocks with GAP between two knocks. A
 * KNOCK is a tcp port (one SYN), or `PORT/PATH`: a udp packet with the content of PATH.1 for the first client, PATH.2
 * for the second, and so on. From the last knock on the client connects to PORT, again every SPACING, until that succeeds
 * or PATIENCE is over. Clients begin STRIDE apart, or with STRIDE 0 one after the other. Prints for each client the
 * microseconds from just before the last knock until the connection was there, or -1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef union {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
} address;

enum { CONNECT_PATIENCE_MS = 100 }; /* a SYN that a flood drowns is sent again after this */

static address destination, first_source;
static socklen_t length;
static int64_t gap, spacing, patience; /* nanoseconds */
static uint16_t port;
static char **knocks;
static int knock_count;

static void die(const char *what)
{
    fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void sleep_until(int64_t when)
{
    struct timespec time = {when / 1000000000LL, when % 1000000000LL};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        ;
}

static address read_address(const char *text)
{
    address made = {0};
    if (inet_pton(AF_INET, text, &made.four.sin_addr) == 1)
        made.any.sa_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &made.six.sin6_addr) == 1)
        made.any.sa_family = AF_INET6;
    else
        die(text);
    return made;
}

static address to_port(uint16_t number)
{
    address made = destination;
    made.four.sin_port = htons(number); /* at the same place in both families */
    return made;
}

static int open_from(int client, int kind)
{
    address source = first_source;
    uint32_t *low = source.any.sa_family == AF_INET ? &source.four.sin_addr.s_addr : &source.six.sin6_addr.s6_addr32[3];
    int one = 1, line = socket(source.any.sa_family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *low = htonl(ntohl(*low) + client);
    /* The client's namespace routes these addresses to itself; none is configured. */
    if (line < 0 || setsockopt(line, SOL_IP, IP_FREEBIND, &one, sizeof one) ||
        setsockopt(line, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) || bind(line, &source.any, length))
        die("socket");
    return line;
}

static void knock(int client, const char *spelled, const char *content, size_t size)
{
    address to = to_port(strtoul(spelled, NULL, 10));
    int line = open_from(client, content ? SOCK_DGRAM : SOCK_STREAM);
    /* Closed at once: a SYN that nobody answers would be sent again after a second, and knock again. */
    if (connect(line, &to.any, length) && errno != EINPROGRESS && errno != ECONNREFUSED)
        die("knock");
    if (content && send(line, content, size, 0) < 0)
        die("knock");
    close(line);
}

static int connects(int client)
{
    address to = to_port(port);
    int line = open_from(client, SOCK_STREAM), error = 0;
    socklen_t size = sizeof error;
    struct linger hard = {1, 0};
    setsockopt(line, SOL_SOCKET, SO_LINGER, &hard, sizeof hard); /* leave with a RST, and nothing in TIME_WAIT */
    if (connect(line, &to.any, length)) {
        struct pollfd wanted = {line, POLLOUT, 0};
        if (errno == EINPROGRESS && poll(&wanted, 1, CONNECT_PATIENCE_MS) == 1)
            getsockopt(line, SOL_SOCKET, SO_ERROR, &error, &size);
        else
            error = ETIMEDOUT;
    }
    close(line);
    return !error;
}

/* One client: knock, then try the port. */
static void *visit(void *argument)
{
    int64_t *place = argument, began = *place ? *place : now(), last = began;
    int client = place[1];
    *place = -1;
    for (int i = 0; i < knock_count; i++) {
        char content[1500], path[4096], *slash = strchr(knocks[i], '/');
        ssize_t size = 0;
        if (slash) {
            snprintf(path, sizeof path, "%s.%d", slash, client + 1);
            int file = open(path, O_RDONLY);
            if (file < 0 || (size = read(file, content, sizeof content)) < 0)
                die(path);
            close(file);
        }
        sleep_until(began + i * gap);
        last = now();
        knock(client, knocks[i], slash ? content : NULL, size);
    }
    for (int64_t next = now(); next < last + patience; next = now() > next + spacing ? now() : next + spacing) {
        sleep_until(next);
        if (connects(client)) {
            *place = now() - last;
            break;
        }
    }
    return NULL;
}

int main(int count, char **words)
{
    if (count < 10) {
        fprintf(stderr, "usage: probe DESTINATION PORT FIRST-SOURCE CLIENTS STRIDE-MS GAP-MS SPACING-US PATIENCE-MS "
                        "KNOCK...\n");
        return 2;
    }
    int clients = atoi(words[4]);
    int64_t stride = atof(words[5]) * 1e6;
    destination = read_address(words[1]);
    port = strtoul(words[2], NULL, 10);
    first_source = read_address(words[3]);
    length = destination.any.sa_family == AF_INET ? sizeof destination.four : sizeof destination.six;
    gap = atof(words[6]) * 1e6;
    spacing = atof(words[7]) * 1e3;
    patience = atof(words[8]) * 1e6;
    knocks = words + 9;
    knock_count = count - 9;

    int64_t (*places)[2] = calloc(clients, sizeof *places), began = now() + 1000000;
    pthread_t *threads = calloc(clients, sizeof *threads);
    for (int i = 0; i < clients; i++) {
        places[i][0] = stride ? began + i * stride : 0;
        places[i][1] = i;
        if (!stride)
            visit(places[i]);
        else if (pthread_create(&threads[i], NULL, visit, places[i]))
            die("thread");
    }
    for (int i = 0; i < clients; i++) {
        if (stride)
            pthread_join(threads[i], NULL);
        printf("%.1f\n", places[i][0] < 0 ? -1.0 : places[i][0] / 1e3);
    }
    return 0;
}
