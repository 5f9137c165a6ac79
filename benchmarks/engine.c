/* An engine that makes tokens as fast as one core can: the common ground of the benchmark.
 *
 * It speaks what Hugging Face TGI does (/health, /generate, /generate_stream) and what OpenAI's
 * API does (/v1/models, /v1/completions, /v1/chat/completions), over HTTP/1.1 on 127.0.0.1:PORT.
 * One thread, one loop. Any other path is answered with 200 and an empty body.
 *
 * How many tokens a request gets is its `max_new_tokens`, `max_tokens` or `max_completion_tokens`;
 * how they come stands in its prompt: `pace=MS` writes one token every MS milliseconds, all streams in the same moment, as
 * the batch of a real engine does; `pace=0` writes as fast as it can, in turn between the streams,
 * `step=N` tokens in each write (default 1).
 *
 * Token number 42 is " @0042"; paced, " @0042:" and the microseconds of CLOCK_MONOTONIC at which it
 * was written, as 12 digits. So load.c can count, order and time the tokens behind any protocol.
 * The last event has no copy of the whole text, for its tokens would be counted twice.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FILES = 16384, LARGEST_REQUEST = 1 << 23, REPLY_SIZE = 1 << 17, LARGEST_EVENT = 512 };

enum face { TGI, COMPLETIONS, CHAT, MODELS };

struct connection {
    int fd;
    char *request; /* of `room` bytes, which grow with it */
    size_t received, room;
    char reply[REPLY_SIZE];
    size_t filled, sent;
    bool streams;
    enum face face;
    int count, made, step;
    long pace;      /* microseconds between two tokens; 0 for none */
    bool blocked;   /* the peer's window is full */
    bool unsettled; /* it waits for EPOLLOUT, too */
};

static struct connection *connections[MAX_FILES];
static int poller, highest;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void put(struct connection *c, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    c->filled += vsnprintf(c->reply + c->filled, REPLY_SIZE - c->filled, format, arguments);
    va_end(arguments);
    if (c->filled >= REPLY_SIZE) {
        fprintf(stderr, "engine: a reply has more than %d bytes\n", REPLY_SIZE);
        exit(1);
    }
}

static void hang_up(struct connection *c) {
    close(c->fd);
    connections[c->fd] = NULL;
    free(c->request);
    free(c);
}

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = c->fd};
    epoll_ctl(poller, operation, c->fd, &event);
}

/* Send what is filled; false when the peer has gone. */
static bool flush_reply(struct connection *c) {
    while (c->sent < c->filled) {
        ssize_t n = send(c->fd, c->reply + c->sent, c->filled - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) return false;
            c->blocked = true;
            if (!c->unsettled) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            c->unsettled = true;
            return true;
        }
        c->sent += n;
    }
    c->filled = c->sent = 0;
    return true;
}

static int token(char *text, const struct connection *c) {
    if (c->pace) return sprintf(text, " @%04d:%012ld", c->made % 10000, now() % 1000000000000L);
    return sprintf(text, " @%04d", c->made % 10000);
}

static void put_chunk(struct connection *c, const char *data, size_t size) {
    put(c, "%zx\r\n", size);
    memcpy(c->reply + c->filled, data, size);
    c->filled += size;
    put(c, "\r\n");
}

static void put_event(struct connection *c) {
    char text[32], event[LARGEST_EVENT];
    int size;
    token(text, c);
    bool last = ++c->made == c->count;
    const char *reason = last ? "\"length\"" : "null";
    if (c->face == TGI)
        size = last ? sprintf(event,
                              "data: {\"index\":%d,\"token\":{\"id\":%d,\"text\":\"%s\",\"logprob\":-0.5,"
                              "\"special\":false},\"generated_text\":\"\",\"details\":{\"finish_reason\":"
                              "\"length\",\"generated_tokens\":%d,\"seed\":null,\"input_length\":4}}\n\n",
                              c->made, c->made, text, c->made)
                    : sprintf(event,
                              "data: {\"index\":%d,\"token\":{\"id\":%d,\"text\":\"%s\",\"logprob\":-0.5,"
                              "\"special\":false},\"generated_text\":null,\"details\":null}\n\n",
                              c->made, c->made, text);
    else if (c->face == CHAT)
        size = sprintf(event,
                       "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\","
                       "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"logprobs\":null,"
                       "\"finish_reason\":%s}]}\n\n",
                       c->made == 1 ? "\"role\":\"assistant\"," : "", text, reason);
    else
        size = sprintf(event,
                       "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"bench\","
                       "\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
                       text, reason);
    put_chunk(c, event, size);
    if (!last) return;
    if (c->face != TGI) put_chunk(c, "data: [DONE]\n\n", 14);
    put(c, "0\r\n\r\n");
}

/* The next tokens of a stream; false when the peer has gone. */
static bool proceed(struct connection *c) {
    for (int i = 0; i < c->step && c->made < c->count; i++) put_event(c);
    if (c->made == c->count) c->streams = false;
    return flush_reply(c);
}

/* What TGI tells besides the text where the request asks for `details`. */
static void put_details(struct connection *c) {
    put(c, ",\"details\":{\"finish_reason\":\"length\",\"generated_tokens\":%d,\"seed\":null,\"prefill\":[],"
           "\"tokens\":[", c->count);
    for (c->made = 0; c->made < c->count; c->made++) {
        char text[32];
        token(text, c);
        put(c, "%s{\"id\":%d,\"text\":\"%s\",\"logprob\":-0.5,\"special\":false}", c->made ? "," : "",
            c->made, text);
    }
    put(c, "]}");
}

static void put_text(struct connection *c) {
    char text[32];
    for (c->made = 0; c->made < c->count; c->made++) {
        token(text, c);
        put(c, "%s", text);
    }
}

static void put_tgi(struct connection *c, bool details) {
    put(c, "{\"generated_text\":\"");
    put_text(c);
    put(c, "\"");
    if (details) put_details(c);
    put(c, "}");
}

static void put_openai(struct connection *c) {
    bool chat = c->face == CHAT;
    put(c, "{\"id\":\"c\",\"object\":\"%s\",\"created\":1,\"model\":\"bench\",\"choices\":[{\"index\":0,",
        chat ? "chat.completion" : "text_completion");
    put(c, chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"" : "\"text\":\"");
    put_text(c);
    put(c, "\"%s,\"logprobs\":null,\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":4,"
           "\"completion_tokens\":%d,\"total_tokens\":%d}}", chat ? "}" : "", c->count, c->count + 4);
}

static void put_models(struct connection *c) {
    put(c, "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1,"
           "\"owned_by\":\"bench\"}]}");
}

static bool answer_whole(struct connection *c, bool details) {
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                               "x-prompt-tokens: 4\r\ncontent-length: %6zu\r\n\r\n";
    size_t begin = c->filled;
    put(c, head, (size_t)0);
    size_t body = c->filled;
    if (c->face == MODELS) put_models(c);
    else if (c->face == TGI) put_tgi(c, details);
    else put_openai(c);
    char first = c->reply[body];
    sprintf(c->reply + begin, head, c->filled - body); /* it writes a zero behind itself */
    c->reply[body] = first;
    return flush_reply(c);
}

static bool asks(const struct connection *c, const char *line) {
    return !strncmp(c->request, line, strlen(line));
}

static long number(const char *body, const char *key, long otherwise) {
    const char *found = strstr(body, key);
    return found ? strtol(found + strlen(key), NULL, 10) : otherwise;
}

/* Begin the answer to a whole request; false when the peer has gone. */
static bool answer(struct connection *c, const char *body) {
    bool whole = !strstr(body, "\"stream\":true") && !strstr(body, "\"stream\": true");
    c->face = TGI;
    if (asks(c, "POST /generate_stream ")) whole = false;
    else if (asks(c, "POST /generate ")) whole = true;
    else if (asks(c, "POST /v1/completions ")) c->face = COMPLETIONS;
    else if (asks(c, "POST /v1/chat/completions ")) c->face = CHAT;
    else if (asks(c, "GET /v1/models ")) c->face = MODELS;
    else {
        put(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"); /* /health, and what routers ask */
        return flush_reply(c);
    }
    c->count = number(body, "max_new_tokens\":", number(body, "max_tokens\":", 20));
    c->count = number(body, "max_completion_tokens\":", c->count);
    c->pace = number(body, "pace=", 0) * 1000;
    c->step = number(body, "step=", 1);
    c->made = 0;
    if (whole) return answer_whole(c, strstr(body, "\"details\":true"));
    put(c, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    c->streams = true;
    return c->pace ? flush_reply(c) : proceed(c);
}

/* Read what has come and answer it when it is whole; false when the peer has gone. */
static bool receive(struct connection *c) {
    if (c->received + 1 >= c->room) c->request = realloc(c->request, c->room = c->room ? 2 * c->room : 1 << 12);
    ssize_t n = recv(c->fd, c->request + c->received, c->room - 1 - c->received, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    c->received += n;
    c->request[c->received] = 0;
    char *end = strstr(c->request, "\r\n\r\n");
    if (!end) return c->received < LARGEST_REQUEST;
    char *length = strcasestr(c->request, "\r\ncontent-length:");
    size_t size = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    if (c->received < end + 4 - c->request + size) return c->received < LARGEST_REQUEST;
    c->received = 0; /* nobody here sends the next request before it has the answer */
    return answer(c, end + 4);
}

static void greet(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FILES) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connections[fd] = calloc(1, sizeof(struct connection));
        connections[fd]->fd = fd;
        if (fd > highest) highest = fd;
        watch(connections[fd], EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void handle(struct epoll_event *event) {
    struct connection *c = connections[event->data.fd];
    if (!c) return;
    bool alive = true;
    if (event->events & EPOLLOUT) {
        c->blocked = false;
        alive = flush_reply(c);
        if (alive && !c->blocked) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN);
            c->unsettled = false;
        }
    }
    if (alive && event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) alive = receive(c);
    if (!alive) hang_up(c);
}

/* One step of each stream that is due; returns the milliseconds to the next, -1 when there is none. */
static int tick(long *ticked) {
    long time = now(), shortest = 0;
    bool busy = false;
    for (int fd = 0; fd <= highest; fd++) {
        struct connection *c = connections[fd];
        if (!c || !c->streams) continue;
        if (c->pace && (!shortest || c->pace < shortest)) shortest = c->pace;
        if (c->blocked || (c->pace && time / c->pace == *ticked / c->pace)) continue;
        if (!proceed(c)) hang_up(c);
        else if (c->streams && !c->pace && !c->blocked) busy = true;
    }
    *ticked = time;
    if (busy) return 0;
    return shortest ? (shortest - time % shortest + 999) / 1000 : -1;
}

static int listen_at(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("engine");
        exit(1);
    }
    return fd;
}

int main(int count, char **arguments) {
    struct rlimit files = {MAX_FILES, MAX_FILES};
    struct epoll_event events[1024];
    long ticked = now();
    int wait = -1;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = listen_at(count > 1 ? atoi(arguments[1]) : 0);
    poller = epoll_create1(0);
    events[0] = (struct epoll_event){.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &events[0]);
    for (;;) {
        int n = epoll_wait(poller, events, 1024, wait);
        for (int i = 0; i < n; i++)
            if (events[i].data.fd == listener) greet(listener);
            else handle(&events[i]);
        wait = tick(&ticked);
    }
}
