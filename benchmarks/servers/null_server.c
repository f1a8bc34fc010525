/* A null S3 server: it reads every body and keeps none, so that the client is what is measured. What is to be read from
 * it is zeros, as many as it is told when it is reset.
 *
 *     null_server [--delay-ms N] [--bytes-per-second N] [--certificate PEM]
 *
 * Listens on a free port of 127.0.0.1, prints it, and serves until it is killed. Every answer comes --delay-ms later, as
 * from a distant region. No connection carries more than --bytes-per-second either way, as one to S3 does not. The PEM
 * file holds key and certificate and makes it HTTPS.
 *
 * One thread, HTTP/1.1 with keep-alive, epoll, edge-triggered. The bytes of a large body are not even copied out of the
 * kernel (MSG_TRUNC), those of TLS are decrypted into one buffer that stays in the cache.
 */
#define _GNU_SOURCE
#include "null.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    BUFFER_BYTES = 256 * 1024,
    HEAD_BYTES_MAX = 64 * 1024,
    BODY_BYTES_MAX = 256 * 1024 * 1024, /* of requests that are no uploads: the longest is the reset before a grab */
    READS_PER_TURN = 8,
    EVENTS = 256,
};
static const double NAP_SECONDS_MIN = 0.003; /* a connection may be so far ahead of its rate */

enum state { HEAD, BODY, CHUNKED };
enum chunk { SIZE, DATA, TRAILER };

struct connection {
    int socket;
    SSL *tls;
    struct text waiting; /* received and not looked at: half a head, or what came before its turn */
    struct text head;
    struct request request;
    enum state state;
    uint64_t left; /* of the body, or of the chunk with its CRLF */
    enum chunk chunk;
    struct text line; /* of the chunked coding, until it is whole */
    struct text out;
    size_t sent;
    uint64_t zeros;
    bool answering, ending, dead, readable, hung_up, look, queued;
    struct connection *next;       /* in the queue of those that can go on */
    double wakes, free_at;         /* sleeps until; its rate allows more from then on */
    size_t place;                  /* in the heap of sleepers, from 1; 0: awake */
};

static char buffer[BUFFER_BYTES], zeros[BUFFER_BYTES];
static double delay_seconds, bytes_per_second, armed;
static SSL_CTX *context;
static int poll_fd, timer_fd;
static struct connection *first, **last = &first;
static struct connection **sleepers;
static size_t sleepers_count, sleepers_room;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* -- who can go on, and who sleeps ----------------------------------------------------------------------------- */

static void queue(struct connection *one) {
    if (one->queued) return;
    one->queued = true;
    one->next = NULL;
    *last = one;
    last = &one->next;
}

static void put_at(size_t place, struct connection *one) {
    sleepers[place - 1] = one;
    one->place = place;
}

static void settle(size_t place) {
    struct connection *one = sleepers[place - 1];
    for (; place > 1 && sleepers[place / 2 - 1]->wakes > one->wakes; place /= 2) put_at(place, sleepers[place / 2 - 1]);
    for (size_t child; (child = place * 2) <= sleepers_count; place = child) {
        if (child < sleepers_count && sleepers[child]->wakes < sleepers[child - 1]->wakes) child++;
        if (sleepers[child - 1]->wakes >= one->wakes) break;
        put_at(place, sleepers[child - 1]);
    }
    put_at(place, one);
}

static void sleep_until(struct connection *one, double time) {
    if (sleepers_count == sleepers_room) {
        sleepers_room = sleepers_room ? sleepers_room * 2 : 1024;
        sleepers = realloc(sleepers, sleepers_room * sizeof *sleepers);
        if (!sleepers) die("realloc");
    }
    one->wakes = time;
    put_at(++sleepers_count, one);
    settle(sleepers_count);
}

static void wake(struct connection *one) {
    size_t place = one->place;
    struct connection *moved = sleepers[--sleepers_count];
    one->place = 0;
    if (moved == one) return;
    put_at(place, moved);
    settle(place);
}

static void arm_timer(void) {
    if (!sleepers_count || sleepers[0]->wakes == armed) return;
    armed = sleepers[0]->wakes;
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)armed, .tv_nsec = (long)((armed - (time_t)armed) * 1e9) + 1}};
    if (at.it_value.tv_nsec > 999999999) at.it_value.tv_nsec = 999999999;
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void spend(struct connection *one, size_t bytes) {
    if (!bytes_per_second || one->request.is_control) return;
    double time = now();
    one->free_at = (one->free_at > time ? one->free_at : time) + bytes / bytes_per_second;
}

static bool ahead_of_rate(const struct connection *one) {
    return bytes_per_second && one->free_at > now() + NAP_SECONDS_MIN;
}

/* -- requests -------------------------------------------------------------------------------------------------- */

static void answer_now(struct connection *one) {
    one->answering = true;
    double time = now(), due = one->request.is_control ? time : time + delay_seconds;
    if (due < one->free_at) due = one->free_at;
    if (due > time) sleep_until(one, due);
}

static void finish(struct connection *one) {
    one->state = HEAD;
    one->zeros = answer(&one->request, &one->out);
    if (one->zeros <= HEAD_BYTES_MAX) {
        add_bytes(&one->out, zeros, one->zeros);
        spend(one, one->zeros);
        one->zeros = 0;
    }
    one->ending = one->request.closes;
    answer_now(one);
}

static void take_header(struct request *request, char *name, char *value) {
    if (!strcasecmp(name, "content-length")) request->length = strtoull(value, NULL, 10);
    else if (!strcasecmp(name, "content-md5")) request->md5 = value;
    else if (!strcasecmp(name, "range")) request->range = value;
    else if (!strcasecmp(name, "transfer-encoding")) request->chunked = !strcasecmp(value, "chunked");
    else if (!strcasecmp(name, "expect")) request->expects = !strcasecmp(value, "100-continue");
    else if (!strcasecmp(name, "connection")) request->closes = !strcasecmp(value, "close");
    else if (!strcasecmp(name, "x-amz-content-sha256")) request->sha256 = value;
    else if (!strcasecmp(name, "x-amz-trailer")) request->trailer = value;
    else if (!strcasecmp(name, "x-amz-decoded-content-length")) request->decoded = value;
    else if (!strncasecmp(name, "x-amz-checksum-", 15)) add(&request->checksums, "%s: %s\r\n", name, value);
}

static void begin(struct connection *one, const char *head, size_t size) {
    struct request *request = &one->request;
    empty(&one->head);
    add_bytes(&one->head, head, size);
    empty(&request->checksums);
    empty(&request->body);
    request->md5 = request->sha256 = request->trailer = request->range = request->decoded = "";
    request->length = 0;
    request->chunked = request->expects = request->closes = false;
    char *lines = one->head.data, *line = strsep(&lines, "\r");
    request->method = strsep(&line, " ");
    request->target = strsep(&line, " ");
    if (!line || *request->target != '/') {
        one->dead = true;
        return;
    }
    while ((line = strsep(&lines, "\r"))) {
        line += *line == '\n';
        char *value = strchr(line, ':');
        if (!value) continue;
        *value++ = 0;
        while (*value == ' ' || *value == '\t') value++;
        for (char *end = value + strlen(value); end > value && (end[-1] == ' ' || end[-1] == '\t');) *--end = 0;
        take_header(request, line, value);
    }
    const char *slash = strchr(request->target + 1, '/');
    request->is_control = !strncmp(request->target, "/-/", 3);
    request->is_upload = !strcmp(request->method, "PUT") && slash && slash[1] && slash[1] != '?';
    one->left = request->chunked ? 0 : request->length;
    one->state = request->chunked ? CHUNKED : BODY;
    one->chunk = SIZE;
    if (!request->is_upload && request->length > BODY_BYTES_MAX) one->dead = true;
    else if (!request->chunked && !request->length) finish(one);
    else if (request->expects) {
        add(&one->out, "HTTP/1.1 100 Continue\r\n\r\n");
        answer_now(one);
    }
}

static void end_line(struct connection *one) {
    const char *line = one->line.data;
    if (one->chunk == SIZE) {
        one->left = strtoull(line, NULL, 16);
        one->chunk = one->left ? DATA : TRAILER;
        if (one->left) one->left += 2; /* the CRLF that ends the data */
    } else if (one->line.size <= 1) {
        finish(one);
    }
    empty(&one->line);
}

/* RFC 9112, 7.1. S3's aws-chunked coding, in which clients send checksums as trailers, lies inside and is not looked at. */
static size_t feed_chunked(struct connection *one, const char *data, size_t size) {
    if (one->chunk == DATA) {
        size_t taken = one->left < size ? one->left : size;
        one->left -= taken;
        if (!one->left) one->chunk = SIZE;
        spend(one, taken);
        return taken;
    }
    const char *end = memchr(data, '\n', size);
    size_t taken = end ? (size_t)(end - data) + 1 : size;
    add_bytes(&one->line, data, end ? taken - 1 : taken);
    if (one->line.size > HEAD_BYTES_MAX) one->dead = true;
    else if (end) end_line(one);
    return taken;
}

/* Takes as much as belongs to one request; what follows waits until it is answered. */
static size_t consume(struct connection *one, const char *data, size_t size) {
    size_t at = 0;
    while (at < size && !one->answering && !one->dead) {
        if (one->state == HEAD) {
            const char *end = memmem(data + at, size - at, "\r\n\r\n", 4);
            if (!end) {
                one->dead = size - at > HEAD_BYTES_MAX;
                break;
            }
            begin(one, data + at, (size_t)(end - data) - at);
            at = (size_t)(end - data) + 4;
        } else if (one->state == BODY) {
            size_t taken = one->left < size - at ? one->left : size - at;
            if (!one->request.is_upload) add_bytes(&one->request.body, data + at, taken);
            at += taken;
            one->left -= taken;
            spend(one, taken);
            if (!one->left) finish(one);
        } else {
            at += feed_chunked(one, data + at, size - at);
        }
    }
    return at;
}

/* -- connections ----------------------------------------------------------------------------------------------- */

static void receive(struct connection *one) {
    bool skips = !one->tls && one->state == BODY && one->request.is_upload && !one->waiting.size;
    size_t wanted = skips && one->left < BUFFER_BYTES ? one->left : BUFFER_BYTES;
    ssize_t got;
    if (one->tls) {
        ERR_clear_error();
        got = SSL_read(one->tls, buffer, BUFFER_BYTES);
        if (got <= 0) {
            int error = SSL_get_error(one->tls, (int)got);
            one->readable = false;
            one->dead = error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE;
            return;
        }
    } else {
        got = recv(one->socket, buffer, wanted, skips ? MSG_TRUNC : 0);
        if (got <= 0) {
            one->readable = false;
            one->dead = got == 0 || (errno != EAGAIN && errno != EINTR);
            return;
        }
        if ((size_t)got < wanted && !one->hung_up) one->readable = false;
    }
    if (one->waiting.size) {
        add_bytes(&one->waiting, buffer, (size_t)got);
        one->look = true;
        return;
    }
    size_t taken = consume(one, buffer, (size_t)got);
    if (taken < (size_t)got) add_bytes(&one->waiting, buffer + taken, (size_t)got - taken);
}

static void look(struct connection *one) {
    one->look = false;
    size_t taken = consume(one, one->waiting.data, one->waiting.size);
    one->waiting.size -= taken;
    memmove(one->waiting.data, one->waiting.data + taken, one->waiting.size);
}

static ssize_t write_some(struct connection *one, const char *data, size_t size) {
    if (!one->tls) {
        ssize_t sent = send(one->socket, data, size, MSG_NOSIGNAL);
        if (sent < 0) one->dead = errno != EAGAIN && errno != EINTR;
        return sent;
    }
    ERR_clear_error();
    int sent = SSL_write(one->tls, data, (int)size);
    if (sent > 0) return sent;
    int error = SSL_get_error(one->tls, sent);
    one->dead = error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE;
    return -1;
}

/* Whether all of the answer is sent. */
static bool flush(struct connection *one) {
    while (one->sent < one->out.size) {
        ssize_t sent = write_some(one, one->out.data + one->sent, one->out.size - one->sent);
        if (sent < 0) return false;
        one->sent += (size_t)sent;
    }
    while (one->zeros) {
        if (ahead_of_rate(one)) {
            sleep_until(one, one->free_at);
            return false;
        }
        ssize_t sent = write_some(one, zeros, one->zeros < BUFFER_BYTES ? one->zeros : BUFFER_BYTES);
        if (sent < 0) return false;
        one->zeros -= (uint64_t)sent;
        spend(one, (size_t)sent);
    }
    empty(&one->out);
    one->sent = 0;
    one->answering = false;
    one->look = one->waiting.size > 0;
    one->dead = one->ending;
    return !one->dead;
}

static void go_on(struct connection *one) {
    for (int reads = 0; !one->dead && !one->place;) {
        if (one->answering) {
            if (!flush(one)) return;
        } else if (ahead_of_rate(one)) {
            sleep_until(one, one->free_at);
        } else if (one->look) {
            look(one);
        } else if (!one->readable) {
            return;
        } else if (reads++ == READS_PER_TURN) {
            queue(one);
            return;
        } else {
            receive(one);
        }
    }
}

static void destroy(struct connection *one) {
    if (one->place) wake(one);
    if (one->tls) {
        SSL_shutdown(one->tls);
        SSL_free(one->tls);
    }
    close(one->socket);
    struct text *texts[] = {&one->waiting, &one->head, &one->line, &one->out, &one->request.checksums, &one->request.body};
    for (size_t n = 0; n < sizeof texts / sizeof *texts; n++) free(texts[n]->data);
    free(one);
}

static void accept_all(int listener) {
    int socket, on = 1;
    while ((socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *one = calloc(1, sizeof *one);
        if (!one) die("calloc");
        one->socket = socket;
        connections++;
        if (context) {
            one->tls = SSL_new(context);
            SSL_set_fd(one->tls, socket);
            SSL_set_accept_state(one->tls);
        }
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = one};
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, socket, &event)) die("epoll_ctl");
    }
}

static int listen_and_tell(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &size)) die("getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void read_certificate(const char *path) {
    context = SSL_CTX_new(TLS_server_method());
    if (!context || SSL_CTX_use_certificate_chain_file(context, path) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, BUFFER_BYTES);
}

int main(int count, char **given) {
    for (int n = 1; n + 1 < count; n += 2) {
        if (!strcmp(given[n], "--delay-ms")) delay_seconds = atof(given[n + 1]) / 1000;
        else if (!strcmp(given[n], "--bytes-per-second")) bytes_per_second = atof(given[n + 1]);
        else if (!strcmp(given[n], "--certificate")) read_certificate(given[n + 1]);
    }
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poll_fd < 0 || timer_fd < 0) die("epoll, timerfd");
    int listener = listen_and_tell();
    struct epoll_event accepts = {.events = EPOLLIN, .data.ptr = &poll_fd}, tick = {.events = EPOLLIN | EPOLLET, .data.ptr = &timer_fd};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &accepts) || epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &tick)) die("epoll_ctl");
    for (;;) {
        struct epoll_event events[EVENTS];
        arm_timer();
        int ready = epoll_wait(poll_fd, events, EVENTS, first ? 0 : -1);
        for (int n = 0; n < ready; n++) {
            if (events[n].data.ptr == &poll_fd) accept_all(listener);
            else if (events[n].data.ptr == &timer_fd) armed = 0;
            else {
                struct connection *one = events[n].data.ptr;
                one->hung_up |= (events[n].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
                one->readable |= one->tls || events[n].events & ~(uint32_t)EPOLLOUT;
                queue(one);
            }
        }
        for (double time = now(); sleepers_count && sleepers[0]->wakes <= time;) {
            struct connection *one = sleepers[0];
            wake(one);
            queue(one);
        }
        struct connection *one = first;
        first = NULL;
        last = &first;
        while (one) {
            struct connection *next = one->next;
            one->queued = false;
            go_on(one);
            if (one->dead) destroy(one);
            one = next;
        }
    }
}
