/* The floor: what a WebSocket server costs when it is nothing but system calls.
 * One thread, one epoll, a table indexed by descriptor. No sessions, no UTF-8,
 * hardly a check: never put this on a network. It exists so that a server's CPU
 * per message and per heartbeat can be compared with the least that is possible.
 *
 *     floor ADDRESS PORT count|echo [MS]   prints the address it listens on
 *
 * MS is the interval of heartbeats, 0 for none: a text and a Ping in one write.
 * They cost no timer: a clock goes through the table once in an interval, in
 * TICKS steps. Whether the Pong comes is not looked at.
 *
 * A message must arrive within one frame and be at most 64 KiB; anything else
 * closes the connection. Output that the socket does not take does so too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 128 << 10, MAX_EVENTS = 512, TICKS = 100 };

/* All that a connection holds, unless half a frame is waiting. */
struct conn {
    uint32_t total;
    uint32_t have; /* bytes in held */
    uint8_t open;  /* the handshake is done */
    uint8_t *held;
};

static struct conn *conns;
static int epfd, counting, interval; /* ms; 0: no heartbeats */
static int highest;                  /* descriptor of a connection, ever */
static uint8_t in[BUFFER], out[2 * BUFFER];

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* ---- handshake: SHA-1 and base64 of RFC 6455 section 4.2.2 ---- */

static uint32_t rol(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1_block(uint32_t h[5], const uint8_t *p) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rol(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
        uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        uint32_t t = rol(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rol(b, 30), b = a, a = t;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

/* accept_key: key is the 24 characters of Sec-WebSocket-Key; to gets 28 and a NUL. */
static void accept_key(const char *key, char *to) {
    uint8_t m[128] = {0}, d[21] = {0};
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    memcpy(m, key, 24);
    memcpy(m + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    m[60] = 0x80;
    m[126] = 60 * 8 >> 8, m[127] = (60 * 8) & 255;
    sha1_block(h, m);
    sha1_block(h, m + 64);
    for (int i = 0; i < 20; i++) d[i] = h[i / 4] >> (24 - 8 * (i % 4));
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 7; i++) {
        uint32_t v = d[3 * i] << 16 | d[3 * i + 1] << 8 | d[3 * i + 2];
        for (int j = 0; j < 4; j++) to[4 * i + j] = digits[v >> (18 - 6 * j) & 63];
    }
    to[27] = '=', to[28] = 0;
}

static size_t frame(uint8_t *to, int op, const uint8_t *p, size_t n) {
    size_t at = 2;
    to[0] = 0x80 | op;
    if (n < 126) {
        to[1] = n;
    } else {
        to[1] = 126, to[2] = n >> 8, to[3] = n;
        at = 4;
        if (n > 0xffff) { /* 65,536 only: two bytes do not hold it */
            to[1] = 127, memset(to + 2, 0, 8), to[7] = n >> 16, to[8] = n >> 8, to[9] = n;
            at = 10;
        }
    }
    memcpy(to + at, p, n);
    return at + n;
}

/* handshake returns 0 when the connection is to be closed, 1 when it goes on. */
static int handshake(int fd, const char *req) {
    const char *key = strcasestr(req, "\r\nSec-WebSocket-Key:");
    if (!key) {
        static const char ok[] = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nok\n";
        send(fd, ok, sizeof ok - 1, MSG_NOSIGNAL);
        return 0;
    }
    key += 20;
    while (*key == ' ') key++;
    if (strlen(key) < 24) return 0;
    char accept[32], id[40], welcome[128];
    accept_key(key, accept);
    static uint64_t serial;
    snprintf(id, sizeof id, "00000000-0000-4000-8000-%012llx", (unsigned long long)++serial);
    size_t n = sprintf((char *)out,
                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Accept: %s\r\nX-Session-Id: %s\r\n\r\n",
                       accept, id);
    if (counting) {
        int w = snprintf(welcome, sizeof welcome, "{\"session_id\":\"%s\",\"count\":0,\"resumed\":false}", id);
        n += frame(out + n, 1, (uint8_t *)welcome, w);
    }
    return send(fd, out, n, MSG_NOSIGNAL) == (ssize_t)n;
}

/* ---- frames ---- */

/* messages answers the whole frames in p and returns the bytes used, or -1 to close. */
static ssize_t messages(int fd, struct conn *c, uint8_t *p, size_t n) {
    size_t used = 0, ready = 0;
    while (n - used >= 6) {
        uint8_t *f = p + used;
        size_t len = f[1] & 127, head = 6;
        if (len == 126) {
            if (n - used < 8) break;
            len = f[2] << 8 | f[3], head = 8;
        } else if (len == 127) {
            if (n - used < 14) break;
            if (f[2] | f[3] | f[4] | f[5] | f[6]) return -1;
            len = (size_t)f[7] << 16 | f[8] << 8 | f[9], head = 14;
        }
        if (!(f[1] & 128) || !(f[0] & 128) || len > 65536) return -1;
        if (n - used < head + len) break;
        uint8_t *mask = f + head - 4, *body = f + head;
        int op = f[0] & 15;
        if (!counting || op > 2)
            for (size_t i = 0; i < len; i++) body[i] ^= mask[i & 3];
        if (ready + len + 64 > sizeof out) {
            if (send(fd, out, ready, MSG_NOSIGNAL) != (ssize_t)ready) return -1;
            ready = 0;
        }
        if (op == 8) {
            ready += frame(out + ready, 8, body, len < 2 ? 0 : 2);
            send(fd, out, ready, MSG_NOSIGNAL);
            return -1;
        } else if (op == 9) {
            ready += frame(out + ready, 10, body, len);
        } else if (op == 1 || op == 2) {
            if (counting) {
                char reply[32];
                int w = snprintf(reply, sizeof reply, "{\"count\":%u}", ++c->total);
                ready += frame(out + ready, 1, (uint8_t *)reply, w);
            } else {
                ready += frame(out + ready, op, body, len);
            }
        }
        used += head + len;
    }
    if (ready && send(fd, out, ready, MSG_NOSIGNAL) != (ssize_t)ready) return -1;
    return used;
}

static void drop(int fd) {
    free(conns[fd].held);
    memset(&conns[fd], 0, sizeof conns[fd]);
    close(fd);
}

static void readable(int fd) {
    struct conn *c = &conns[fd];
    size_t n = c->have;
    if (n) memcpy(in, c->held, n);
    ssize_t got = recv(fd, in + n, BUFFER - 1 - n, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return drop(fd);
    n += got;
    in[n] = 0;
    ssize_t used = 0;
    if (c->open) {
        used = messages(fd, c, in, n);
    } else {
        char *end = strstr((char *)in, "\r\n\r\n");
        if (end) {
            if (!handshake(fd, (char *)in)) return drop(fd);
            c->open = 1;
            used = end + 4 - (char *)in;
        } else if (n > 8192) {
            used = -1;
        }
    }
    if (used < 0) return drop(fd);
    c->have = n - used;
    if (c->have) {
        c->held = realloc(c->held, c->have);
        memcpy(c->held, in + used, c->have);
    } else if (c->held) {
        free(c->held);
        c->held = NULL;
    }
}

static void accept_all(int ln) {
    int fd, one = 1;
    while ((fd = accept4(ln, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev)) close(fd);
        else if (fd > highest) highest = fd;
    }
}

/* ---- heartbeats ---- */

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* beats sends those that are due and returns the ms until the next are. A tick
 * is for every TICKS-th descriptor, so that each has the same one every time. */
static int beats(void) {
    static int64_t ticks = -1; /* done; ended intervals count TICKS each */
    if (!interval) return -1;
    int64_t now = now_ms() * TICKS / interval;
    if (ticks < 0) ticks = now;
    if (ticks < now) {
        uint8_t m[64];
        char text[48];
        struct timespec t;
        struct tm day;
        size_t n = 0;
        clock_gettime(CLOCK_REALTIME, &t);
        gmtime_r(&t.tv_sec, &day);
        strftime(text, sizeof text, "{\"ts\":\"%FT%T", &day);
        snprintf(text + 26, sizeof text - 26, ".%03dZ\"}", (int)(t.tv_nsec / 1000000));
        if (counting) n = frame(m, 1, (uint8_t *)text, strlen(text));
        n += frame(m + n, 9, m, 0);
        while (ticks < now)
            for (int fd = ++ticks % TICKS; fd <= highest; fd += TICKS)
                if (conns[fd].open) send(fd, m, n, MSG_NOSIGNAL); /* a read sees what fails */
    }
    int64_t wait = ((now + 1) * interval + TICKS - 1) / TICKS - now_ms();
    return wait > 0 ? wait : 0;
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5)
        return fprintf(stderr, "usage: floor ADDRESS PORT count|echo [MS between heartbeats]\n"), 2;
    counting = !strcmp(argv[3], "count");
    interval = argc == 5 ? atoi(argv[4]) : 0;
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim)) die("getrlimit");
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);
    conns = calloc(lim.rlim_cur, sizeof *conns); /* untouched pages cost nothing */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    if (!conns || inet_pton(AF_INET, argv[1], &a.sin_addr) != 1) die("address");
    int one = 1, ln = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(ln, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(ln, (struct sockaddr *)&a, sizeof a) || listen(ln, 65535)) die("listen");
    socklen_t size = sizeof a;
    getsockname(ln, (struct sockaddr *)&a, &size);
    printf("%s:%d\n", argv[1], ntohs(a.sin_port));
    fflush(stdout);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = ln}, events[MAX_EVENTS];
    if (epfd < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, ln, &ev)) die("epoll");
    for (;;) {
        int n = epoll_wait(epfd, events, MAX_EVENTS, beats());
        for (int i = 0; i < n; i++)
            if (events[i].data.fd == ln)
                accept_all(ln);
            else
                readable(events[i].data.fd);
    }
}
