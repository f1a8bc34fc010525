/* What the null server's two files share: growing texts, requests, and the store's answers. */
#ifndef NULL_H
#define NULL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that grow; always followed by a NUL, which `size` does not count. */
struct text {
    char *data;
    size_t size, room;
};

void add_bytes(struct text *to, const void *data, size_t size);
void add(struct text *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
void empty(struct text *text);

/* A request; its strings lie in the connection's copy of the head. "" is a header that is missing. */
struct request {
    const char *method, *target, *md5, *sha256, *trailer, *range, *decoded;
    struct text checksums; /* its x-amz-checksum-* lines, each with its CRLF */
    uint64_t length;
    bool chunked, expects, closes, is_upload, is_control;
    struct text body; /* of everything that is no upload */
};

extern uint64_t connections; /* accepted since the reset */

/* Write the answer to `out`; returns how many zeros follow it. */
uint64_t answer(const struct request *request, struct text *out);

#endif
