/* What the null server remembers (keys and sizes, never bytes), and its answers. No signature is checked.
 *
 * Source: Amazon S3 API Reference, the page of each operation's name. Two targets are its own: POST /-/reset forgets
 * everything and starts its CPU clock again; the body's lines "SIZE ETAG CRC64NVME PATH" are objects of zeros, which can
 * be read. GET /-/stats tells what it counted, as JSON.
 */
#define _GNU_SOURCE
#include "null.h"

#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define NAMESPACE " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""
/* Shaped like a multipart ETag, which no client takes for the MD5 of the body. */
#define NO_ETAG "\"00000000000000000000000000000000-1\""

enum { PAGE_KEYS = 1000, CHECKS = 32, NAME_BYTES = 80 };

struct object {
    struct object *next; /* in its bucket of the table */
    uint64_t hash, size;
    bool readable;
    char etag[64];
    char *checksums; /* header lines */
    char path[];     /* "/bucket/key" */
};

struct part {
    unsigned long number;
    uint64_t size;
    char etag[64];
};

struct upload {
    struct upload *next;
    unsigned long id;
    char *path;
    struct part *parts;
    size_t count, room;
};

static struct object **table, **in_order;
static size_t table_size, objects;
static struct upload *uploads;
static unsigned long uploads_made;
uint64_t connections;
static uint64_t puts_, gets_, parts_, others, received, stored;
static struct { char name[NAME_BYTES]; uint64_t count; } checks[CHECKS];
static double cpu_before;

/* -- texts ------------------------------------------------------------------------------------------------------ */

static void *must(void *memory) {
    if (memory) return memory;
    perror("null server");
    exit(1);
}

static void make_room(struct text *to, size_t size) {
    if (to->size + size < to->room) return;
    to->room = (to->size + size + 1) * 2;
    to->data = must(realloc(to->data, to->room));
}

void add_bytes(struct text *to, const void *data, size_t size) {
    make_room(to, size);
    memcpy(to->data + to->size, data, size);
    to->data[to->size += size] = 0;
}

void add(struct text *to, const char *format, ...) {
    for (;;) {
        va_list values;
        va_start(values, format);
        size_t room = to->room - to->size;
        size_t size = (size_t)vsnprintf(room ? to->data + to->size : NULL, room, format, values);
        va_end(values);
        if (size < room) {
            to->size += size;
            return;
        }
        make_room(to, size);
    }
}

void empty(struct text *text) {
    make_room(text, 0);
    text->data[text->size = 0] = 0;
}

static void add_xml(struct text *to, const char *name, const char *value) {
    add(to, "<%s>", name);
    for (; *value; value++) {
        if (*value == '&') add(to, "&amp;");
        else if (*value == '<') add(to, "&lt;");
        else if (*value == '>') add(to, "&gt;");
        else add_bytes(to, value, 1);
    }
    add(to, "</%s>", name);
}

static char *decoded(const char *from, const char *end) {
    char *made = must(malloc((size_t)(end - from) + 1)), *to = made;
    for (; from < end; from++) {
        unsigned value;
        if (*from == '%' && end - from > 2 && sscanf(from + 1, "%2x", &value) == 1) {
            *to++ = (char)value;
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
    return made;
}

/* A parameter of the query, decoded, to be freed; NULL where it is missing. */
static char *parameter(const char *target, const char *name) {
    const char *at = strchr(target, '?');
    size_t size = strlen(name);
    while (at && *at) {
        const char *end = strchrnul(++at, '&');
        if (!strncmp(at, name, size) && (at[size] == '=' || at + size == end))
            return decoded(at[size] == '=' ? at + size + 1 : end, end);
        at = end;
    }
    return NULL;
}

/* -- objects ---------------------------------------------------------------------------------------------------- */

static uint64_t hash_of(const char *path) {
    uint64_t hash = 14695981039346656037u;
    for (; *path; path++) hash = (hash ^ (unsigned char)*path) * 1099511628211u;
    return hash;
}

static struct object **place_of(const char *path, uint64_t hash) {
    static struct object *nothing;
    if (!table_size) return &nothing;
    struct object **at = &table[hash % table_size];
    while (*at && ((*at)->hash != hash || strcmp((*at)->path, path))) at = &(*at)->next;
    return at;
}

static struct object *find(const char *path) { return *place_of(path, hash_of(path)); }

static void forget_order(void) {
    free(in_order);
    in_order = NULL;
}

static void remove_object(const char *path) {
    struct object **at = place_of(path, hash_of(path)), *gone = *at;
    if (!gone) return;
    *at = gone->next;
    objects--;
    stored -= gone->size;
    free(gone->checksums);
    free(gone);
    forget_order();
}

static void grow(void) {
    size_t before = table_size;
    struct object **old = table;
    table_size = before ? before * 2 : 4096;
    table = must(calloc(table_size, sizeof *table));
    for (size_t n = 0; n < before; n++) {
        for (struct object *each = old[n], *next; each; each = next) {
            next = each->next;
            struct object **at = &table[each->hash % table_size];
            each->next = *at;
            *at = each;
        }
    }
    free(old);
}

static struct object *store(const char *path, uint64_t size, const char *etag, const char *checksums) {
    if (objects >= table_size) grow();
    remove_object(path);
    size_t length = strlen(path) + 1;
    struct object *made = must(calloc(1, sizeof *made + length));
    memcpy(made->path, path, length);
    made->hash = hash_of(path);
    made->size = size;
    snprintf(made->etag, sizeof made->etag, "%s", etag);
    made->checksums = must(strdup(checksums));
    struct object **at = &table[made->hash % table_size];
    made->next = *at;
    *at = made;
    objects++;
    stored += size;
    forget_order();
    return made;
}

static int by_path(const void *one, const void *other) {
    return strcmp((*(struct object *const *)one)->path, (*(struct object *const *)other)->path);
}

static void put_in_order(void) {
    if (in_order) return;
    in_order = must(malloc((objects + 1) * sizeof *in_order));
    size_t count = 0;
    for (size_t n = 0; n < table_size; n++)
        for (struct object *each = table[n]; each; each = each->next) in_order[count++] = each;
    qsort(in_order, objects, sizeof *in_order, by_path);
}

/* -- counts ----------------------------------------------------------------------------------------------------- */

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void count_check(const char *prefix, const char *name, size_t size) {
    char whole[NAME_BYTES];
    snprintf(whole, sizeof whole, "%s%.*s", prefix, (int)size, name);
    for (char *each = whole; *each; each++) *each = *each >= 'A' && *each <= 'Z' ? *each | 32 : *each == '"' ? '\'' : *each;
    for (size_t n = 0; n < CHECKS; n++) {
        if (*checks[n].name && strcmp(checks[n].name, whole)) continue;
        memcpy(checks[n].name, whole, sizeof whole);
        checks[n].count++;
        return;
    }
}

static void drop(struct upload **at) {
    struct upload *gone = *at;
    *at = gone->next;
    free(gone->path);
    free(gone->parts);
    free(gone);
}

static void reset(char *lines) {
    for (size_t n = 0; n < table_size; n++)
        while (table[n]) remove_object(table[n]->path);
    while (uploads) drop(&uploads);
    connections = puts_ = gets_ = parts_ = others = received = 0;
    memset(checks, 0, sizeof checks);
    for (char *line; lines && (line = strsep(&lines, "\n")) && *line;) {
        uint64_t size = strtoull(strsep(&line, " "), NULL, 10);
        const char *etag = strsep(&line, " "), *crc = strsep(&line, " ");
        char checksums[128], quoted[40];
        snprintf(quoted, sizeof quoted, "\"%s\"", etag);
        snprintf(checksums, sizeof checksums, "x-amz-checksum-crc64nvme: %s\r\nx-amz-checksum-type: FULL_OBJECT\r\n", crc);
        store(line, size, quoted, checksums)->readable = true;
    }
    cpu_before = cpu_seconds();
}

static void add_stats(struct text *to) {
    size_t open = 0;
    for (struct upload *each = uploads; each; each = each->next) open++;
    add(to, "{\"puts\": %lu, \"gets\": %lu, \"parts\": %lu, \"objects\": %zu, ", puts_, gets_, parts_, objects);
    add(to, "\"bytes_received\": %lu, \"bytes_stored\": %lu, \"other_requests\": %lu, ", received, stored, others);
    add(to, "\"connections\": %lu, ", connections);
    add(to, "\"open_uploads\": %zu, \"cpu_seconds\": %.6f, \"checks\": {", open, cpu_seconds() - cpu_before);
    for (size_t n = 0; n < CHECKS && checks[n].count; n++)
        add(to, "%s\"%s\": %lu", n ? ", " : "", checks[n].name, checks[n].count);
    add(to, "}}");
}

/* -- answers ---------------------------------------------------------------------------------------------------- */

static void begin_answer(struct text *out, const char *status) {
    static char date[40];
    static time_t second;
    time_t time_ = time(NULL);
    if (time_ != second) strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&(time_t){second = time_}));
    add(out, "HTTP/1.1 %s\r\nServer: null\r\nx-amz-request-id: NULL000000000000\r\nDate: %s\r\n", status, date);
}

static void bodiless(struct text *out, const char *status, const char *headers) {
    begin_answer(out, status);
    add(out, "%s%s\r\n", headers, !strncmp(status, "204", 3) ? "" : "Content-Length: 0\r\n");
}

static void send_body(struct text *out, const char *status, const char *kind, struct text *body) {
    begin_answer(out, status);
    add(out, "Content-Type: %s\r\nContent-Length: %zu\r\n\r\n", kind, body->size);
    add_bytes(out, body->data, body->size);
}

static void send_xml(struct text *out, const char *status, const char *root, const char *inside) {
    struct text body = {0};
    add(&body, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<%s%s>%s</%s>", root, strcmp(root, "Error") ? NAMESPACE : "", inside, root);
    send_body(out, status, "application/xml", &body);
    free(body.data);
}

static void refuse(struct text *out, const char *status, const char *code) {
    char inside[200];
    snprintf(inside, sizeof inside, "<Code>%s</Code><Message>The null server answers %s.</Message>", code, code);
    send_xml(out, status, "Error", inside);
}

static void describe(struct text *out, const struct object *found, uint64_t length, const char *checksums) {
    add(out, "ETag: %s\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: %lu\r\n%s\r\n", found->etag, length, checksums);
}

static struct upload **upload_of(const char *id) {
    struct upload **at = &uploads;
    while (*at && (!id || (*at)->id != strtoul(id, NULL, 10))) at = &(*at)->next;
    return at;
}

static bool keep_part(struct upload *upload, const char *number, uint64_t size, const char *etag) {
    struct part made = {.number = strtoul(number, NULL, 10), .size = size};
    snprintf(made.etag, sizeof made.etag, "%s", etag);
    size_t at = 0;
    while (at < upload->count && upload->parts[at].number != made.number) at++;
    if (at == upload->room) {
        upload->room = upload->room ? upload->room * 2 : 64;
        upload->parts = must(realloc(upload->parts, upload->room * sizeof *upload->parts));
    }
    upload->parts[at] = made;
    upload->count += at == upload->count;
    parts_++;
    return made.number > 0;
}

static void md5_etag(const char *base64, char *etag) {
    unsigned char digest[24];
    if (strlen(base64) != 24 || EVP_DecodeBlock(digest, (const unsigned char *)base64, 24) != 18) return;
    for (int n = 0; n < 16; n++) sprintf(etag + 1 + 2 * n, "%02x", digest[n]);
    strcpy(etag + 33, "\"");
    count_check("content-md5", "", 0);
}

static void answer_upload(const struct request *request, const char *path, struct text *out) {
    char etag[64] = NO_ETAG;
    const char *checksums = request->checksums.data;
    if (*checksums) count_check("", checksums, strcspn(checksums, ":"));
    if (*request->trailer) count_check("trailer ", request->trailer, strlen(request->trailer));
    if (*request->md5) md5_etag(request->md5, etag);
    if (*request->sha256 && strncasecmp(request->sha256, "unsigned", 8) && strncasecmp(request->sha256, "streaming", 9))
        count_check("sha256 in the signature", "", 0);
    uint64_t size = *request->decoded ? strtoull(request->decoded, NULL, 10) : request->length;
    received += size;
    char *number = strstr(request->target, "partNumber=") ? parameter(request->target, "partNumber") : NULL;
    if (number) {
        char *id = parameter(request->target, "uploadId");
        struct upload *upload = *upload_of(id);
        bool kept = upload && keep_part(upload, number, size, etag);
        free(id);
        free(number);
        if (!kept) {
            refuse(out, "404 Not Found", "NoSuchUpload");
            return;
        }
    } else {
        puts_++;
        store(path, size, etag, checksums);
    }
    begin_answer(out, "200 OK");
    add(out, "ETag: %s\r\n%sContent-Length: 0\r\n\r\n", etag, checksums);
}

static uint64_t answer_get(const struct request *request, const struct object *found, struct text *out) {
    gets_++;
    char *end;
    if (strncmp(request->range, "bytes=", 6)) {
        begin_answer(out, "200 OK");
        describe(out, found, found->size, found->checksums);
        return found->size;
    }
    uint64_t start = strtoull(request->range + 6, &end, 10), stop = found->size - 1;
    if (*end == '-' && end[1] && strtoull(end + 1, NULL, 10) < stop) stop = strtoull(end + 1, NULL, 10);
    if (start > stop) {
        refuse(out, "416 Range Not Satisfiable", "InvalidRange");
        return 0;
    }
    begin_answer(out, "206 Partial Content");
    add(out, "Content-Range: bytes %lu-%lu/%lu\r\n", start, stop, found->size);
    describe(out, found, stop - start + 1, ""); /* without the checksums, which are of the whole object */
    return stop - start + 1;
}

static void create_upload(const char *path, struct text *out) {
    struct upload *made = must(calloc(1, sizeof *made));
    struct text inside = {0};
    made->id = ++uploads_made;
    made->path = must(strdup(path));
    made->next = uploads;
    uploads = made;
    const char *key = strchr(path + 1, '/') + 1;
    add(&inside, "<Bucket>%.*s</Bucket><UploadId>%lu</UploadId>", (int)(key - path - 2), path + 1, made->id);
    add_xml(&inside, "Key", key);
    send_xml(out, "200 OK", "InitiateMultipartUploadResult", inside.data);
    free(inside.data);
}

static void add_checksums(struct text *to, const char *lines) {
    for (; *lines; lines = strchr(lines, '\n') + 1) {
        const char *name = lines + strlen("x-amz-checksum-");
        int size = (int)strcspn(name, ":"), value = (int)strcspn(name + size + 2, "\r");
        char kind[32];
        snprintf(kind, sizeof kind, "%.*s", size, name);
        for (char *each = kind; *each; each++) *each = *each >= 'a' && *each <= 'z' ? *each & ~32 : *each;
        const char *element = strcmp(kind, "TYPE") ? kind : "Type";
        add(to, "<Checksum%s>%.*s</Checksum%s>", element, value, name + size + 2, element);
    }
}

static void complete(const struct request *request, struct upload **at, struct text *out) {
    struct upload *upload = *at;
    struct text inside = {0};
    size_t named = 0;
    uint64_t size = 0;
    char etag[64];
    for (const char *each = request->body.data; (each = strstr(each, "<PartNumber>")); each++) named++;
    if (!named || named != upload->count) {
        refuse(out, "400 Bad Request", "InvalidPart");
        return;
    }
    for (size_t n = 0; n < upload->count; n++) size += upload->parts[n].size;
    snprintf(etag, sizeof etag, "\"%032d-%zu\"", 0, named);
    store(upload->path, size, etag, request->checksums.data);
    const char *key = strchr(upload->path + 1, '/') + 1;
    add_xml(&inside, "Location", upload->path);
    add(&inside, "<Bucket>%.*s</Bucket>", (int)(key - upload->path - 2), upload->path + 1);
    add_xml(&inside, "Key", key);
    add_xml(&inside, "ETag", etag);
    add_checksums(&inside, request->checksums.data);
    drop(at);
    send_xml(out, "200 OK", "CompleteMultipartUploadResult", inside.data);
    free(inside.data);
}

static void list_parts(const struct upload *upload, struct text *out) {
    struct text inside = {0};
    empty(&inside);
    for (size_t n = 0; n < upload->count; n++) {
        const struct part *each = &upload->parts[n];
        add(&inside, "<Part><PartNumber>%lu</PartNumber><Size>%lu</Size><ETag>%s</ETag></Part>", each->number, each->size, each->etag);
    }
    send_xml(out, "200 OK", "ListPartsResult", inside.data);
    free(inside.data);
}

static void answer_object(const struct request *request, const char *path, struct text *out) {
    bool posts = !strcmp(request->method, "POST"), deletes = !strcmp(request->method, "DELETE");
    char *fresh = parameter(request->target, "uploads"), *id = parameter(request->target, "uploadId");
    struct object *found = find(path);
    struct upload **upload = upload_of(id);
    if (!strcmp(request->method, "HEAD")) {
        if (found) {
            begin_answer(out, "200 OK");
            describe(out, found, found->size, found->checksums);
        } else {
            bodiless(out, "404 Not Found", "");
        }
    } else if (posts && fresh) create_upload(path, out);
    else if (id && !*upload) refuse(out, "404 Not Found", "NoSuchUpload");
    else if (id && posts) complete(request, upload, out);
    else if (id && deletes) {
        drop(upload);
        bodiless(out, "204 No Content", "");
    } else if (id) list_parts(*upload, out);
    else if (deletes) {
        remove_object(path);
        bodiless(out, "204 No Content", "");
    } else if (found) refuse(out, "501 Not Implemented", "NotImplemented"); /* its bytes are gone: no answer may prove them */
    else refuse(out, "404 Not Found", "NoSuchKey");
    free(fresh);
    free(id);
}

static void add_key(struct text *to, const char *name, const char *key, size_t size, bool encodes) {
    struct text made = {0};
    empty(&made);
    for (const char *each = key; each < key + size; each++) {
        bool plain = strchr("-_.~/", *each) || (*each >= '0' && *each <= '9') || ((*each | 32) >= 'a' && (*each | 32) <= 'z');
        if (plain || !encodes) add_bytes(&made, each, 1);
        else add(&made, "%%%02X", (unsigned char)*each);
    }
    add_xml(to, name, made.data);
    free(made.data);
}

/* One page of ListObjects (marker) or ListObjectsV2 (continuation-token, start-after). */
static void list(const char *target, const char *bucket, struct text *out) {
    static const char *const names[] = {"prefix", "delimiter", "max-keys", "encoding-type", "continuation-token", "start-after", "marker"};
    char *given[7];
    for (int n = 0; n < 7; n++) given[n] = parameter(target, names[n]);
    const char *prefix = given[0] ? given[0] : "", *delimiter = given[1] ? given[1] : "", *after = "";
    for (int n = 6; n > 3; n--) after = given[n] && *given[n] ? given[n] : after;
    size_t limit = given[2] && strtoul(given[2], NULL, 10) < PAGE_KEYS ? strtoul(given[2], NULL, 10) : PAGE_KEYS, count = 0;
    bool encodes = given[3] && !strcmp(given[3], "url"), truncated = false;
    struct text start = {0}, inside = {0};
    add(&start, "/%s/", bucket);
    size_t cut = start.size, prefix_size = strlen(prefix);
    add(&start, "%s", prefix);
    put_in_order();
    size_t low = 0;
    for (size_t high = objects; low < high;) {
        size_t middle = (low + high) / 2;
        if (strcmp(in_order[middle]->path, start.data) < 0) low = middle + 1;
        else high = middle;
    }
    const char *end = NULL, *group = NULL;
    size_t group_size = 0;
    for (; low < objects && !strncmp(in_order[low]->path, start.data, start.size); low++) {
        const struct object *each = in_order[low];
        const char *key = each->path + cut, *stop = *delimiter ? strstr(key + prefix_size, delimiter) : NULL;
        size_t size = stop ? (size_t)(stop - key) + strlen(delimiter) : 0;
        if (strcmp(key, after) <= 0) continue;
        if (stop && ((size == group_size && !strncmp(group, key, size)) || !strncmp(after, key, size))) {
            end = key;
            continue;
        }
        if (count == limit) {
            truncated = true;
            break;
        }
        count++;
        end = key;
        if (stop) {
            group = key;
            group_size = size;
            add(&inside, "<CommonPrefixes>");
            add_key(&inside, "Prefix", key, size, encodes);
            add(&inside, "</CommonPrefixes>");
        } else {
            add(&inside, "<Contents><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>%s</ETag><Size>%lu</Size>", each->etag, each->size);
            add(&inside, "<StorageClass>STANDARD</StorageClass>");
            add_key(&inside, "Key", key, strlen(key), encodes);
            add(&inside, "</Contents>");
        }
    }
    add_xml(&inside, "Name", bucket);
    add_key(&inside, "Prefix", prefix, prefix_size, encodes);
    add(&inside, "<KeyCount>%zu</KeyCount><MaxKeys>%zu</MaxKeys><IsTruncated>%s</IsTruncated>", count, limit, truncated ? "true" : "false");
    if (truncated) {
        add_xml(&inside, "NextContinuationToken", end ? end : "");
        add_key(&inside, "NextMarker", end ? end : "", end ? strlen(end) : 0, encodes);
    }
    if (given[3]) add_xml(&inside, "EncodingType", given[3]);
    send_xml(out, "200 OK", "ListBucketResult", inside.data);
    for (int n = 0; n < 7; n++) free(given[n]);
    free(start.data);
    free(inside.data);
}

static void answer_bucket(const struct request *request, const char *bucket, struct text *out) {
    char *location = parameter(request->target, "location"), *open = parameter(request->target, "uploads");
    if (!strcmp(request->method, "DELETE")) bodiless(out, "204 No Content", "");
    else if (!strcmp(request->method, "HEAD") || !strcmp(request->method, "PUT"))
        bodiless(out, "200 OK", "x-amz-bucket-region: us-east-1\r\n");
    else if (!*bucket) send_xml(out, "200 OK", "ListAllMyBucketsResult", "<Buckets/>");
    else if (location) send_xml(out, "200 OK", "LocationConstraint", "");
    else if (open) send_xml(out, "200 OK", "ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>");
    else list(request->target, bucket, out);
    free(location);
    free(open);
}

uint64_t answer(const struct request *request, struct text *out) {
    uint64_t zeros = 0;
    char *path = decoded(request->target, strchrnul(request->target, '?')), *key = strchr(path + 1, '/');
    struct object *found = strcmp(request->method, "GET") ? NULL : find(path);
    if (!strcmp(path, "/-/stats")) {
        struct text body = {0};
        add_stats(&body);
        send_body(out, "200 OK", "application/json", &body);
        free(body.data);
    } else if (!strcmp(path, "/-/reset")) {
        reset(request->body.data);
        bodiless(out, "200 OK", "");
    } else if (request->is_upload) {
        answer_upload(request, path, out);
    } else if (found && found->readable) {
        zeros = answer_get(request, found, out);
    } else {
        others++;
        if (key && key[1]) answer_object(request, path, out);
        else {
            if (key) *key = 0;
            answer_bucket(request, path + 1, out);
        }
    }
    free(path);
    return zeros;
}
