/* SVT-AV1 used directly, with nothing of ours: NV12 or P010 frames on standard input, temporal units behind their length
 * on standard output. The library is opened as it is found and may be of any version from 2.0 on, so that no header
 * belongs to it: what EbSvtAv1Enc.h of those versions declares stands here.
 *
 *   svtav1 WIDTH HEIGHT FRAMES BITS KEYS [NAME=VALUE]...    KEYS: frame numbers, each followed by a comma
 *                                                           ?NAME=VALUE: where the library knows it */
#include "apart.h"
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    uint8_t *luma, *cb, *cr;
    uint32_t y_stride, cr_stride, cb_stride;
    /* Until 2.x. */
    uint32_t width, height, org_x, org_y, color_fmt, bit_depth;
} Picture;

typedef struct {
    uint32_t size;
    void *p_buffer;
    uint32_t n_filled_len, n_alloc_len;
    void *p_app_private, *wrapper_ptr;
    uint32_t n_tick_count;
    int64_t dts, pts;
    union {
        struct {
            uint32_t qp, pic_type;
        } until_2;
        struct {
            uint8_t temporal_layer_index;
            uint32_t qp, avg_qp, pic_type;
        } since_3;
        uint64_t room[32];
    };
} Buffer;

enum { KEY_PICTURE = 3, INVALID_PICTURE = 0xff, YUV420 = 1, EMPTY_QUEUE = (int)0x80002033 };

static void *library;

static void *find(const char *name) {
    void *function = dlsym(library, name);
    if (function) return function;
    fprintf(stderr, "%s is not in the library\n", name);
    exit(1);
}

static int open_library(void) {
    const char *file = getenv("QUAD_SVTAV1_LIBRARY");
    if (file && *file) return (library = dlopen(file, RTLD_NOW)) != NULL;
    for (int major = 4; major >= 2 && !library; major--) {
        char name[32];
        snprintf(name, sizeof name, "libSvtAv1Enc.so.%d", major);
        library = dlopen(name, RTLD_NOW);
    }
    return library != NULL;
}

int main(int argc, char **argv) {
    if (argc < 6) return 64;
    int width = atoi(argv[1]), height = atoi(argv[2]), frames = atoi(argv[3]), bits = atoi(argv[4]);
    int bytes = bits > 8 ? 2 : 1;
    if (!open_library()) return 69;
    const char *(*version)(void) = find("svt_av1_get_version");
    void *init_handle = find("svt_av1_enc_init_handle");
    int (*parse)(void *, const char *, const char *) = find("svt_av1_enc_parse_parameter");
    int (*set)(void *, void *) = find("svt_av1_enc_set_parameter");
    int (*init)(void *) = find("svt_av1_enc_init");
    int (*send)(void *, Buffer *) = find("svt_av1_enc_send_picture");
    int (*receive)(void *, Buffer **, uint8_t) = find("svt_av1_enc_get_packet");
    void (*release)(Buffer **) = find("svt_av1_enc_release_out_buffer");
    int (*deinit)(void *) = find("svt_av1_enc_deinit");
    int (*deinit_handle)(void *) = find("svt_av1_enc_deinit_handle");
    int major = atoi(version() + strcspn(version(), "0123456789"));
    void *handle = NULL, *configuration = calloc(1, 1 << 15);
    int code = major >= 3 ? ((int (*)(void **, void *))init_handle)(&handle, configuration)
                          : ((int (*)(void **, void *, void *))init_handle)(&handle, NULL, configuration);
    if (code) return 1;
    char size[16];
    snprintf(size, sizeof size, "%d", width);
    if (parse(configuration, "width", size)) return 1;
    snprintf(size, sizeof size, "%d", height);
    if (parse(configuration, "height", size) || parse(configuration, "input-depth", argv[4])) return 1;
    for (int i = 6; i < argc; i++) {
        char *name = argv[i] + (argv[i][0] == '?'), *value = strchr(name, '=');
        if (!value) return 64;
        *value++ = 0;
        if (parse(configuration, name, value) && name == argv[i]) {
            fprintf(stderr, "%s = %s is refused\n", name, value);
            return 1;
        }
    }
    if (set(handle, configuration) || init(handle)) return 1;
    size_t luma = (size_t)width * height, samples = luma * 3 / 2;
    uint8_t *frame = malloc(samples * bytes), *planes = malloc(samples * bytes);
    for (int number = 0; number < frames; number++) {
        if (fread(frame, samples * bytes, 1, stdin) != 1) return 1;
        apart(frame, planes, luma, bytes);
        Picture picture = {
            planes, planes + luma * bytes, planes + luma * bytes * 5 / 4, width, width / 2, width / 2,
            width, height, 0, 0, YUV420, bits,
        };
        char wanted[16];
        snprintf(wanted, sizeof wanted, ",%d,", number);
        uint32_t kind = number == 0 || strstr(argv[5], wanted) ? KEY_PICTURE : INVALID_PICTURE;
        Buffer in = {.size = sizeof in, .p_buffer = &picture, .pts = number};
        in.n_filled_len = in.n_alloc_len = samples * bytes;
        if (major >= 3)
            in.since_3.pic_type = kind;
        else
            in.until_2.pic_type = kind;
        if (send(handle, &in)) return 1;
        Buffer *packet = NULL;
        /* Until 2.2 it does not wait. */
        while ((code = receive(handle, &packet, 0)) == EMPTY_QUEUE) usleep(50);
        if (code) return 1;
        uint32_t length = packet->n_filled_len;
        fwrite(&length, 4, 1, stdout);
        fwrite(packet->p_buffer, length, 1, stdout);
        release(&packet);
    }
    deinit(handle);
    deinit_handle(handle);
    return fflush(stdout) != 0;
}
