/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * First knocks from many spoofed sources, as fast as one core can send them or at a given rate.
 *
 *   flood INTERFACE HOST-MAC DESTINATION FIRST-SOURCE SOURCES FIRST-PORT PORTS RATE SECONDS [PAYLOAD]
 *
 * Sends SYNs, or with PAYLOAD udp packets of that many base64 letters, to DESTINATION (IPv4 or IPv6). Source addresses
 * count up from FIRST-SOURCE, ports from FIRST-PORT, and begin again after SOURCES and PORTS packets. RATE is packets
 * a second, 0 is as fast as it can; it ends after SECONDS, or by TERM, and prints what it did as JSON:
 * packets sent, packets that the receiving side's queue had no room for, seconds.
 *
 * An AF_PACKET socket without queueing discipline, one system call for BATCH packets: on a veth pair the receiving
 * kernel works on the sending core, so that the rate is what this core can send *and* receive.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, LONGEST = 1500, TICKS = 1000 /* bursts a second, where there is a rate */ };

static volatile sig_atomic_t stopped;
static void stop(int number) { (void)number; stopped = 1; }

static void die(const char *what)
{
    fprintf(stderr, "flood: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* The Internet checksum (RFC 1071), unfolded: sums can be added. */
static uint32_t sum(const void *data, size_t length)
{
    const uint8_t *bytes = data;
    uint32_t total = 0;
    for (size_t i = 0; i + 1 < length; i += 2)
        total += bytes[i] << 8 | bytes[i + 1];
    return length & 1 ? total + (bytes[length - 1] << 8) : total;
}

static uint16_t fold(uint32_t total)
{
    total = (total & 0xffff) + (total >> 16);
    return htons(~(total + (total >> 16)));
}

/* What all packets have in common, and where they differ. */
static struct {
    uint8_t bytes[LONGEST];
    size_t length;
    uint8_t *counter;   /* the last four bytes of the source address */
    uint8_t *port;      /* of the destination */
    uint8_t *ip_check;  /* none in IPv6 */
    uint8_t *check;
    uint32_t ip_sum, transport_sum; /* with counter and port 0 */
    uint32_t first_source;
    uint16_t first_port;
} frame;

static void build(const uint8_t *from_mac, const uint8_t *to_mac, const char *to, const char *from, uint16_t port,
                  size_t payload)
{
    int six = strchr(to, ':') != NULL;
    size_t header = payload ? sizeof(struct udphdr) : sizeof(struct tcphdr), segment = header + payload;
    struct ethhdr *ether = (void *)frame.bytes;
    uint8_t *ip = frame.bytes + sizeof *ether, *transport;
    uint32_t pseudo;

    memcpy(ether->h_dest, to_mac, ETH_ALEN);
    memcpy(ether->h_source, from_mac, ETH_ALEN);
    ether->h_proto = htons(six ? ETH_P_IPV6 : ETH_P_IP);
    if (six) {
        struct ip6_hdr *six_header = (void *)ip;
        six_header->ip6_vfc = 6 << 4;
        six_header->ip6_plen = htons(segment);
        six_header->ip6_nxt = payload ? IPPROTO_UDP : IPPROTO_TCP;
        six_header->ip6_hops = 64;
        if (inet_pton(AF_INET6, from, &six_header->ip6_src) != 1 || inet_pton(AF_INET6, to, &six_header->ip6_dst) != 1)
            die("address");
        frame.counter = (uint8_t *)&six_header->ip6_src + 12;
        transport = ip + sizeof *six_header;
    } else {
        struct iphdr *four = (void *)ip;
        four->version = 4;
        four->ihl = 5;
        four->tot_len = htons(sizeof *four + segment);
        four->ttl = 64;
        four->protocol = payload ? IPPROTO_UDP : IPPROTO_TCP;
        if (inet_pton(AF_INET, from, &four->saddr) != 1 || inet_pton(AF_INET, to, &four->daddr) != 1)
            die("address");
        frame.counter = (uint8_t *)&four->saddr;
        frame.ip_check = (uint8_t *)&four->check;
        transport = ip + sizeof *four;
    }
    if (payload) {
        struct udphdr *udp = (void *)transport;
        udp->source = htons(40000);
        udp->len = htons(segment);
        frame.port = (uint8_t *)&udp->dest;
        frame.check = (uint8_t *)&udp->check;
        for (size_t i = 0; i < payload; i++)
            transport[header + i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[rand() & 63];
    } else {
        struct tcphdr *tcp = (void *)transport;
        tcp->source = htons(40000);
        tcp->seq = htonl(1);
        tcp->doff = 5;
        tcp->syn = 1;
        tcp->window = htons(1024);
        frame.port = (uint8_t *)&tcp->dest;
        frame.check = (uint8_t *)&tcp->check;
    }
    memcpy(&frame.first_source, frame.counter, 4);
    frame.first_source = ntohl(frame.first_source);
    memset(frame.counter, 0, 4);
    frame.first_port = port;
    pseudo = (payload ? IPPROTO_UDP : IPPROTO_TCP) + segment;
    pseudo += six ? sum(ip + 8, 32) : sum(ip + 12, 8);
    frame.ip_sum = six ? 0 : sum(ip, sizeof(struct iphdr));
    frame.transport_sum = pseudo + sum(transport, segment);
    frame.length = transport + segment - frame.bytes;
}

static void vary(uint8_t *bytes, uint32_t source, uint16_t port)
{
    uint32_t low = (source >> 16) + (source & 0xffff);
    uint16_t check = fold(frame.transport_sum + low + port);
    source = htonl(source);
    port = htons(port);
    memcpy(bytes + (frame.counter - frame.bytes), &source, 4);
    memcpy(bytes + (frame.port - frame.bytes), &port, 2);
    memcpy(bytes + (frame.check - frame.bytes), &check, 2);
    if (frame.ip_check) {
        check = fold(frame.ip_sum + low);
        memcpy(bytes + (frame.ip_check - frame.bytes), &check, 2);
    }
}

int main(int count, char **words)
{
    static uint8_t buffers[BATCH][LONGEST];
    static struct iovec parts[BATCH];
    static struct mmsghdr messages[BATCH];
    uint8_t to_mac[ETH_ALEN];
    struct ifreq interface = {0};
    struct sockaddr_ll address = {.sll_family = AF_PACKET};
    uint64_t sent = 0, refused = 0, number = 0;
    int one = 1;

    if (count < 10 || count > 11) {
        fprintf(stderr, "usage: flood INTERFACE HOST-MAC DESTINATION FIRST-SOURCE SOURCES FIRST-PORT PORTS RATE "
                        "SECONDS [PAYLOAD]\n");
        return 2;
    }
    uint32_t sources = strtoul(words[5], NULL, 10), ports = strtoul(words[7], NULL, 10);
    double rate = atof(words[8]), seconds = atof(words[9]);
    size_t payload = count > 10 ? strtoul(words[10], NULL, 10) : 0;
    if (sscanf(words[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", to_mac, to_mac + 1, to_mac + 2, to_mac + 3, to_mac + 4,
               to_mac + 5) != 6 || !sources || !ports || payload > 1200)
        die("arguments");

    int line = socket(AF_PACKET, SOCK_RAW, 0);
    snprintf(interface.ifr_name, sizeof interface.ifr_name, "%s", words[1]);
    if (line < 0 || ioctl(line, SIOCGIFINDEX, &interface))
        die(words[1]);
    address.sll_ifindex = interface.ifr_ifindex;
    if (ioctl(line, SIOCGIFHWADDR, &interface))
        die("hardware address");
    if (setsockopt(line, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) ||
        bind(line, (void *)&address, sizeof address))
        die("packet socket");
    build((uint8_t *)interface.ifr_hwaddr.sa_data, to_mac, words[3], words[4], strtoul(words[6], NULL, 10), payload);
    for (int i = 0; i < BATCH; i++) {
        memcpy(buffers[i], frame.bytes, frame.length);
        parts[i] = (struct iovec){buffers[i], frame.length};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    signal(SIGTERM, stop);
    signal(SIGINT, stop);

    double began = now(), elapsed = 0;
    while (!stopped && elapsed < seconds) {
        uint64_t due = BATCH;
        if (rate > 0) {
            uint64_t planned = rate * (elapsed + 1.0 / TICKS);
            due = planned > number ? planned - number : 0;
            if (due > rate / 10) { /* we did not run for a while: what is late stays unsent, a burst is not a rate */
                number = planned;
                due = 0;
            }
        }
        for (uint64_t todo = due; todo && !stopped;) {
            int batch = todo < BATCH ? todo : BATCH, done;
            for (int i = 0; i < batch; i++, number++)
                vary(buffers[i], frame.first_source + number % sources, frame.first_port + number % ports);
            todo -= batch;
            for (int from = 0; from < batch; from += done) {
                done = sendmmsg(line, messages + from, batch - from, 0);
                if (done < 0 && errno != ENOBUFS)
                    die("send");
                if (done < 0) { /* the receiving side's queue is full */
                    refused++;
                    done = 1;
                } else
                    sent += done;
            }
        }
        elapsed = now() - began;
        if (rate > 0) {
            double rest = 1.0 / TICKS - (elapsed - (uint64_t)(elapsed * TICKS) / (double)TICKS);
            usleep(rest * 1e6);
            elapsed = now() - began;
        }
    }
    printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent,
           (unsigned long long)refused, now() - began);
    return 0;
}
