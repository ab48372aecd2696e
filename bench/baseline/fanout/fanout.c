/* The floor of a fan-out: a WebSocket server that does nothing but send. One
 * thread, one epoll. POST /publish with a body of at most 65,535 bytes frames it
 * once and sends it to every WebSocket that is open, one send() each. Topics are
 * not looked at. What comes from a client is thrown away; output that the socket
 * does not take closes it. Never put this on a network.
 *
 *     fanout ADDRESS PORT        prints the address it listens on
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
#include <unistd.h>

enum { BUFFER = 128 << 10, MAX_EVENTS = 512 };

static int *open_fds, *place, n_open; /* place[fd] is 1 + its index in open_fds */
static int epfd;
static uint8_t in[BUFFER + 1], out[BUFFER];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint32_t rol(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1_block(uint32_t h[5], const uint8_t *p) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rol(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20              ? (b & c) | (~b & d)
                     : i < 40 || i >= 60 ? b ^ c ^ d
                                         : (b & c) | (b & d) | (c & d);
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

static void drop(int fd) {
    int at = place[fd] - 1;
    if (at >= 0) {
        place[open_fds[at] = open_fds[--n_open]] = at + 1;
        place[fd] = 0;
    }
    close(fd);
}

static void publish(const uint8_t *body, size_t n) {
    size_t head = n < 126 ? 2 : 4;
    out[0] = 0x81;
    if (n < 126)
        out[1] = n;
    else
        out[1] = 126, out[2] = n >> 8, out[3] = n;
    memcpy(out + head, body, n);
    for (int i = n_open; i-- > 0;) /* downwards: drop moves the last, which has its message */
        if (send(open_fds[i], out, head + n, MSG_NOSIGNAL) != (ssize_t)(head + n))
            drop(open_fds[i]);
}

/* request answers a whole request; it returns 0 when the connection is to be closed. */
static int request(int fd, char *req, char *end, size_t n) {
    char accept[32], answer[256];
    const char *key = strcasestr(req, "\r\nSec-WebSocket-Key:");
    if (key && key < end) {
        key += 20;
        while (*key == ' ') key++;
        if (strlen(key) < 24) return 0;
        accept_key(key, accept);
        int w = snprintf(answer, sizeof answer,
                         "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                         "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
        if (send(fd, answer, w, MSG_NOSIGNAL) != w) return 0;
        open_fds[n_open++] = fd;
        place[fd] = n_open;
        return 1;
    }
    if (!strncmp(req, "POST ", 5)) publish((uint8_t *)end + 4, n - (end + 4 - req));
    static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
    return send(fd, ok, sizeof ok - 1, MSG_NOSIGNAL) == sizeof ok - 1;
}

static void readable(int fd) {
    ssize_t n = recv(fd, in, BUFFER, place[fd] ? 0 : MSG_PEEK);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 || (place[fd] && (in[0] & 15) == 8)) return drop(fd);
    if (place[fd]) return;
    in[n] = 0;
    char *end = strstr((char *)in, "\r\n\r\n");
    if (!end) {
        if (n > 8192) drop(fd);
        return;
    }
    const char *length = strcasestr((char *)in, "\r\nContent-Length:");
    size_t whole = end + 4 - (char *)in;
    if (length && length < end) whole += strtoul(length + 17, NULL, 10);
    if (whole > 65535 + 4096) return drop(fd);
    if ((size_t)n < whole) return; /* still in the socket: it was only looked at */
    recv(fd, in, whole, 0);
    in[whole] = 0;
    if (!request(fd, (char *)in, end, whole)) drop(fd);
}

static void accept_all(int ln, int limit) {
    int fd, one = 1;
    while ((fd = accept4(ln, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= limit) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev)) close(fd);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: fanout ADDRESS PORT\n"), 2;
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim)) die("getrlimit");
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);
    open_fds = calloc(lim.rlim_cur, sizeof *open_fds);
    place = calloc(lim.rlim_cur, sizeof *place);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    if (!open_fds || !place || inet_pton(AF_INET, argv[1], &a.sin_addr) != 1) die("address");
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
        int n = epoll_wait(epfd, events, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++)
            if (events[i].data.fd == ln)
                accept_all(ln, (int)lim.rlim_cur);
            else
                readable(events[i].data.fd);
    }
}
