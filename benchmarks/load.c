/* A load generator that costs less than what it loads, and believes nothing that it did not count.
 *
 *     load http|grpc PORT PATH BODY CONNECTIONS CALLERS REQUESTS TOKENS ENDING SKIP
 *
 * CALLERS make REQUESTS on 127.0.0.1:PORT, each the next when it has its answer, over HTTP/1.1 (one
 * connection a caller) or gRPC in clear HTTP/2 (over CONNECTIONS). BODY is a file: JSON, or a
 * protobuf message. An answer is right when it has the tokens of engine.c from 0 to TOKENS - 1, each
 * once and in order, when its last 512 bytes hold the text ENDING, and when it ended as its protocol
 * says. The first that is not ends the program with 1 and a line on standard error.
 *
 * Prints one JSON object: seconds, requests, tokens, bytes (of payload, without framing), messages
 * (HTTP chunks or gRPC messages), the median and 99th percentile of a request's time in microseconds,
 * and those of a stamped token's way from engine to here, without the first SKIP tokens of a stream.
 *
 * HTTP/2 is the part that gRPC over loopback needs: frames, one fixed header block to send, windows
 * that never fill. Header blocks that come are not decoded: a call that failed lacks its payload.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 18, TAIL = 512, PATIENCE = 60000 };

/* One request and what has come of its answer. */
struct call {
    long began;          /* 0 for none */
    int tokens;          /* that have come whole */
    int digits;          /* of the token that is being read; -1 between tokens */
    long value;
    bool stamped;        /* its number is read, its stamp is not */
    char tail[TAIL];
    size_t tail_size;
    uint32_t stream;     /* its number on an HTTP/2 connection, 0 for none */
    long message_left;   /* bytes of the gRPC message that is being read */
    int prefix_size;
    unsigned char prefix[5];
};

struct connection {
    int fd;
    unsigned char in[BUFFER];
    size_t filled;
    struct call *calls;  /* one a caller */
    int callers;
    uint32_t next_stream;
    struct call **by_stream;
    long unacknowledged;
    bool in_body, chunked, at_end;
    long left;           /* bytes of the HTTP/1.1 body, or of its chunk */
};

static struct {
    bool grpc;
    const char *path, *ending;
    int port, connections, callers, tokens, skip;
    long requests;
    char *body;
    size_t body_size;
} options;

static char *request;
static size_t request_size;
static long begun, ended, tokens, bytes, messages, *times, *delays, delay_count;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

/* The answer itself, whatever protocol carries it. */

static void begin(struct call *c) {
    memset(c, 0, sizeof *c);
    c->digits = -1;
    c->began = now();
    begun++;
}

static void whole_token(struct call *c) {
    if (c->tokens > options.skip && c->stamped) delays[delay_count++] = now() - c->value;
    c->digits = -1;
    c->stamped = false;
}

static void read_digit(struct call *c, char digit) {
    c->value = c->value * 10 + digit - '0';
    c->digits++;
    if (c->stamped && c->digits == 12) whole_token(c);
    else if (!c->stamped && c->digits == 4) {
        if (c->value != c->tokens % 10000) fail("token %d came as number %ld", c->tokens, c->value);
        c->tokens++;
    }
}

static void payload(struct call *c, const char *data, size_t size) {
    const char *end = data + size;
    bytes += size;
    size_t kept = size < TAIL ? size : TAIL, old = c->tail_size + kept > TAIL ? TAIL - kept : c->tail_size;
    memmove(c->tail, c->tail + c->tail_size - old, old);
    memcpy(c->tail + old, end - kept, kept);
    c->tail_size = old + kept;
    while (data < end) {
        if (c->digits < 0) {
            data = memchr(data, '@', end - data);
            if (!data) return;
            c->digits = 0;
            c->value = 0;
        } else if (*data >= '0' && *data <= '9' && (c->stamped ? c->digits < 12 : c->digits < 4)) {
            read_digit(c, *data);
        } else if (*data == ':' && !c->stamped && c->digits == 4) {
            c->stamped = true;
            c->digits = 0;
            c->value = 0;
        } else if (!c->stamped && c->digits == 4) {
            whole_token(c);
            continue; /* this byte may begin the next */
        } else { /* an @ of the protocol's own, such as a length of 64 */
            c->digits = -1;
            c->stamped = false;
            continue;
        }
        data++;
    }
}

static void finish(struct call *c) {
    if (c->tokens != options.tokens) fail("an answer has %d tokens, not %d", c->tokens, options.tokens);
    if (!memmem(c->tail, c->tail_size, options.ending, strlen(options.ending)))
        fail("an answer ends without %s: %.*s", options.ending, (int)c->tail_size, c->tail);
    times[ended++] = now() - c->began;
    c->began = 0;
    tokens += c->tokens;
}

static void send_all(int fd, const void *data, size_t size) {
    if (send(fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) fail("the system does not take a request");
}

/* HTTP/1.1. */

static void ask_http(struct connection *c) {
    begin(c->calls);
    send_all(c->fd, request, request_size);
}

static void read_head(struct connection *c, const char *head) {
    if (strncmp(head, "HTTP/1.1 200", 12)) fail("the answer is %.300s", head);
    const char *length = strcasestr(head, "\r\ncontent-length:");
    c->chunked = strcasestr(head, "\r\ntransfer-encoding: chunked") != NULL;
    if (!c->chunked && !length) fail("the answer has no length: %s", head);
    c->left = c->chunked ? 0 : strtol(length + 17, NULL, 10);
    c->in_body = true;
    c->at_end = false;
}

static void end_http(struct connection *c) {
    c->in_body = false;
    finish(c->calls);
    if (begun < options.requests) ask_http(c);
}

/* Take what is understood from the front of `in`; returns its size, 0 when more must come. */
static size_t take_http(struct connection *c, char *data, size_t size) {
    if (!c->in_body) {
        char *end = memmem(data, size, "\r\n\r\n", 4);
        if (!end) return 0;
        *end = 0;
        read_head(c, data);
        return end + 4 - data;
    }
    if (c->left > 0) {
        size_t n = size < (size_t)c->left ? size : (size_t)c->left;
        payload(c->calls, data, n);
        c->left -= n;
        if (!c->left && !c->chunked) end_http(c);
        return n;
    }
    char *end = memmem(data, size, "\r\n", 2);
    if (!end) return 0;
    if (end == data) { /* after a chunk, or after the last one */
        if (c->at_end) end_http(c);
        return 2;
    }
    c->left = strtol(data, NULL, 16);
    messages++;
    if (!c->left) c->at_end = true;
    return end + 2 - data;
}

/* gRPC over HTTP/2. */

static void put_frame(unsigned char *to, size_t size, int type, int flags, uint32_t stream) {
    unsigned char head[9] = {size >> 16, size >> 8, size, type, flags,
                             stream >> 24, stream >> 16, stream >> 8, stream};
    memcpy(to, head, 9);
}

static void send_frame(struct connection *c, int type, int flags, const void *data, size_t size) {
    unsigned char frame[64];
    put_frame(frame, size, type, flags, 0);
    memcpy(frame + 9, data, size);
    send_all(c->fd, frame, size + 9);
}

static void greet_grpc(struct connection *c) {
    static const unsigned char settings[] = {0, 2, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff};
    static const unsigned char window[] = {0x7f, 0xfe, 0, 0};
    send_all(c->fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    send_frame(c, 4, 0, settings, sizeof settings);
    send_frame(c, 8, 0, window, sizeof window);
    c->next_stream = 1;
    c->by_stream = calloc(options.requests + 1, sizeof *c->by_stream);
}

static size_t put_header(char *to, const char *name, const char *value) {
    return sprintf(to, "%c%c%s%c%s", 0, (int)strlen(name), name, (int)strlen(value), value);
}

/* HEADERS and DATA of a request; the stream's number is filled in for each. */
static void prepare_grpc(void) {
    char *to = request = malloc(options.body_size + 1024);
    char *block = to + 9, *end = block;
    end += put_header(end, ":method", "POST");
    end += put_header(end, ":scheme", "http");
    end += put_header(end, ":path", options.path);
    end += put_header(end, ":authority", "127.0.0.1");
    end += put_header(end, "content-type", "application/grpc");
    end += put_header(end, "te", "trailers");
    put_frame((unsigned char *)to, end - block, 1, 4, 0);
    put_frame((unsigned char *)end, options.body_size + 5, 0, 1, 0);
    end[9] = 0;
    uint32_t size = htonl(options.body_size);
    memcpy(end + 10, &size, 4);
    memcpy(end + 14, options.body, options.body_size);
    request_size = end + 14 + options.body_size - to;
}

static void ask_grpc(struct connection *c, struct call *call) {
    uint32_t stream = c->next_stream, number = htonl(stream);
    size_t head = 9 + ((unsigned char)request[1] << 8) + (unsigned char)request[2];
    begin(call);
    c->next_stream += 2;
    call->stream = stream;
    c->by_stream[stream / 2] = call;
    memcpy(request + 5, &number, 4);
    memcpy(request + head + 5, &number, 4);
    send_all(c->fd, request, request_size);
}

static void take_data(struct call *call, const unsigned char *data, size_t size) {
    while (size) {
        if (!call->message_left) {
            call->prefix[call->prefix_size++] = *data++;
            size--;
            if (call->prefix_size == 5) {
                uint32_t length;
                memcpy(&length, call->prefix + 1, 4);
                call->message_left = ntohl(length);
                call->prefix_size = 0;
                messages++;
            }
            continue;
        }
        size_t n = size < (size_t)call->message_left ? size : (size_t)call->message_left;
        payload(call, (const char *)data, n);
        call->message_left -= n;
        data += n;
        size -= n;
    }
}

static void credit(struct connection *c, size_t size) {
    c->unacknowledged += size;
    if (c->unacknowledged < 1 << 30) return;
    uint32_t window = htonl(c->unacknowledged);
    send_frame(c, 8, 0, &window, 4);
    c->unacknowledged = 0;
}

static size_t take_grpc(struct connection *c, unsigned char *data, size_t size) {
    if (size < 9) return 0;
    size_t length = data[0] << 16 | data[1] << 8 | data[2];
    int type = data[3], flags = data[4];
    uint32_t stream = (data[5] & 0x7f) << 24 | data[6] << 16 | data[7] << 8 | data[8];
    if (size < length + 9) return 0;
    struct call *call = stream ? c->by_stream[stream / 2] : NULL;
    if (type == 0 && call) {
        take_data(call, data + 9, length);
        credit(c, length);
    } else if (type == 3 && call) fail("the system reset a call");
    else if (type == 7) fail("the system refused to go on: %.*s", (int)length - 8, data + 17);
    else if (type == 4 && !(flags & 1)) send_frame(c, 4, 1, NULL, 0);
    else if (type == 6 && !(flags & 1)) send_frame(c, 6, 1, data + 9, 8);
    if (call && (type == 0 || type == 1) && flags & 1) {
        c->by_stream[stream / 2] = NULL;
        finish(call);
        if (begun < options.requests) ask_grpc(c, call);
    }
    return length + 9;
}

/* All connections. */

static struct connection *open_connection(int callers) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options.port)};
    struct connection *c = calloc(1, sizeof *c);
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("cannot connect: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->callers = callers;
    c->calls = calloc(callers, sizeof *c->calls);
    if (options.grpc) greet_grpc(c);
    return c;
}

/* Nothing is asked on it any more: others still wait for their last answers. */
static bool idle(struct connection *c) {
    for (int i = 0; i < c->callers; i++)
        if (c->calls[i].began) return false;
    return true;
}

static void receive(struct connection *c) {
    ssize_t n = recv(c->fd, c->in + c->filled, BUFFER - 1 - c->filled, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 && idle(c)) {
        close(c->fd);
        return;
    }
    if (n <= 0) fail("the system hung up");
    c->filled += n;
    c->in[c->filled] = 0;
    size_t taken = 0, step;
    while (taken < c->filled) {
        unsigned char *data = c->in + taken;
        size_t size = c->filled - taken;
        step = options.grpc ? take_grpc(c, data, size) : take_http(c, (char *)data, size);
        if (!step) break;
        taken += step;
    }
    c->filled -= taken;
    memmove(c->in, c->in + taken, c->filled);
    if (c->filled == BUFFER - 1) fail("a piece of the answer is too large");
}

static int ascending(const void *a, const void *b) {
    long left = *(const long *)a, right = *(const long *)b;
    return (left > right) - (left < right);
}

static long quantile(long *sorted, long count, double share) {
    return count ? sorted[(long)((count - 1) * share + 0.5)] : -1;
}

static void report(double seconds) {
    qsort(times, ended, sizeof *times, ascending);
    qsort(delays, delay_count, sizeof *delays, ascending);
    printf("{\"seconds\":%.6f,\"requests\":%ld,\"tokens\":%ld,\"bytes\":%ld,\"messages\":%ld,"
           "\"request_p50_us\":%ld,\"request_p99_us\":%ld,\"token_p50_us\":%ld,\"token_p99_us\":%ld}\n",
           seconds, ended, tokens, bytes, messages, quantile(times, ended, 0.5),
           quantile(times, ended, 0.99), quantile(delays, delay_count, 0.5),
           quantile(delays, delay_count, 0.99));
}

static void read_options(char **given) {
    options.grpc = !strcmp(given[1], "grpc");
    options.port = atoi(given[2]);
    options.path = given[3];
    options.callers = atoi(given[6]);
    options.connections = options.grpc ? atoi(given[5]) : options.callers;
    options.requests = atol(given[7]);
    options.tokens = atoi(given[8]);
    options.ending = given[9];
    options.skip = atoi(given[10]);
    FILE *file = fopen(given[4], "rb");
    if (!file) fail("cannot read %s", given[4]);
    options.body = malloc(1 << 16);
    options.body_size = fread(options.body, 1, 1 << 16, file);
    fclose(file);
}

static void prepare(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    times = malloc((options.requests + 1) * sizeof *times);
    delays = malloc((options.requests * options.tokens + 1) * sizeof *delays);
    if (options.grpc) {
        prepare_grpc();
        return;
    }
    request = malloc(options.body_size + 1024);
    request_size = sprintf(request,
                           "POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer sk-bench\r\n"
                           "content-type: application/json\r\ncontent-length: %zu\r\n\r\n",
                           options.path, options.body_size);
    memcpy(request + request_size, options.body, options.body_size);
    request_size += options.body_size;
}

int main(int count, char **given) {
    struct epoll_event events[1024];
    int poller = epoll_create1(0);
    if (count != 11) fail("see the head of load.c");
    read_options(given);
    prepare();
    struct connection **all = calloc(options.connections, sizeof *all);
    for (int i = 0; i < options.connections; i++) {
        int callers = options.callers / options.connections + (i < options.callers % options.connections);
        all[i] = open_connection(callers);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = all[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, all[i]->fd, &event);
    }
    long start = now();
    for (int i = 0; i < options.connections; i++)
        for (int j = 0; j < all[i]->callers && begun < options.requests; j++)
            options.grpc ? ask_grpc(all[i], &all[i]->calls[j]) : ask_http(all[i]);
    while (ended < options.requests) {
        int n = epoll_wait(poller, events, 1024, PATIENCE);
        if (n <= 0) fail("nothing came for %d s", PATIENCE / 1000);
        for (int i = 0; i < n; i++) receive(events[i].data.ptr);
    }
    report((now() - start) / 1e6);
}
