/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A long and bad line between two interfaces, where the kernel has no netem.
 *
 *   wire INTERFACE INTERFACE DELAY LOSS SEED
 *
 * Frames that come in at one interface leave by the other, DELAY milliseconds later (a round trip takes twice that, in
 * the order in which they came), but LOSS percent of them never. Which ones says a generator (xorshift64*) of each
 * direction, that begins with SEED: so two runs lose the same frames as far as they send the same. Prints READY when it
 * listens, and when TERM ends it what it did, as JSON: frames passed and frames lost.
 *
 * The kernel's offloads are passed on with the frames (PACKET_VNET_HDR): what the sender's kernel leaves to its network
 * card, checksums above all, the receiver's kernel takes as done. Loss is per frame, so senders should leave nothing in
 * one frame that the wire would see as several: `ip link set dev eth0 gso_max_segs 1`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST = sizeof(struct virtio_net_hdr) + 65536 + ETH_HLEN + 4, BUFFER = 32 << 20 /* bytes */ };

struct frame {
    struct frame *next;
    int64_t due; /* nanoseconds */
    size_t length;
    uint8_t bytes[];
};

static struct direction {
    int from, to;
    uint64_t state;
    struct frame *first, **end;
} directions[2];

static volatile sig_atomic_t stopped;
static void stop(int number) { (void)number; stopped = 1; }

static void die(const char *what)
{
    fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* From 0 to 1 (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled"). */
static double chance(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * 0x2545f4914f6cdd1dull >> 11) * 0x1p-53;
}

static int listen_at(const char *name)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    int one = 1, size = BUFFER, line = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);

    address.sll_ifindex = if_nametoindex(name);
    struct packet_mreq promiscuous = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    if (line < 0 || !address.sll_ifindex || setsockopt(line, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) ||
        setsockopt(line, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) ||
        setsockopt(line, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous) ||
        setsockopt(line, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) ||
        setsockopt(line, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) ||
        bind(line, (void *)&address, sizeof address))
        die(name);
    return line;
}

int main(int count, char **words)
{
    static uint8_t buffer[LONGEST];
    uint64_t passed = 0, lost = 0;

    if (count != 6) {
        fprintf(stderr, "usage: wire INTERFACE INTERFACE DELAY LOSS SEED\n");
        return 2;
    }
    int64_t delay = atof(words[3]) * 1e6;
    double loss = atof(words[4]) / 100;
    int ends[2] = {listen_at(words[1]), listen_at(words[2])};
    for (int i = 0; i < 2; i++) {
        uint64_t seed = (strtoull(words[5], NULL, 10) * 2 + i + 1) * 0x9e3779b97f4a7c15ull; /* never 0 */
        directions[i] = (struct direction){.from = ends[i], .to = ends[!i], .state = seed};
        directions[i].end = &directions[i].first;
    }
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    puts("READY");
    fflush(stdout);

    while (!stopped) {
        int64_t next = INT64_MAX;
        struct pollfd inputs[2];
        for (int i = 0; i < 2; i++) {
            struct direction *way = &directions[i];
            ssize_t length;
            while ((length = recv(way->from, buffer, sizeof buffer, 0)) >= 0) {
                if (chance(&way->state) < loss) {
                    lost++;
                    continue;
                }
                struct frame *frame = malloc(sizeof *frame + length);
                if (!frame)
                    die("memory");
                *frame = (struct frame){.due = now() + delay, .length = length};
                memcpy(frame->bytes, buffer, length);
                *way->end = frame;
                way->end = &frame->next;
            }
            if (errno != EAGAIN && errno != EINTR && errno != ENETDOWN)
                die("receive");
            while (way->first && way->first->due <= now()) {
                struct frame *frame = way->first;
                if (send(way->to, frame->bytes, frame->length, 0) < 0 && errno != ENOBUFS && errno != ENETDOWN)
                    die("send");
                passed++;
                way->first = frame->next;
                if (!way->first)
                    way->end = &way->first;
                free(frame);
            }
            if (way->first && way->first->due < next)
                next = way->first->due;
            inputs[i] = (struct pollfd){.fd = way->from, .events = POLLIN};
        }
        struct timespec wait = {0}, *limit = NULL;
        if (next != INT64_MAX) {
            int64_t left = next - now();
            if (left > 0)
                wait = (struct timespec){left / 1000000000, left % 1000000000};
            limit = &wait;
        }
        ppoll(inputs, 2, limit, NULL);
    }
    printf("{\"passed\": %llu, \"lost\": %llu}\n", (unsigned long long)passed, (unsigned long long)lost);
    return 0;
}
