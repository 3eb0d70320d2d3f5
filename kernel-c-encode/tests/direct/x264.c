/* x264 used directly, through its own header and nothing of ours: NV12 frames on standard input, access units behind
 * their length on standard output.
 *
 *   x264 WIDTH HEIGHT FRAMES PRESET IDRS [NAME=VALUE]...       IDRS: frame numbers, each followed by a comma */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x264.h>

int main(int argc, char **argv) {
    if (argc < 6) return 64;
    int width = atoi(argv[1]), height = atoi(argv[2]), frames = atoi(argv[3]);
    x264_param_t param;
    if (x264_param_default_preset(&param, argv[4], "zerolatency") < 0) return 1;
    param.i_width = width;
    param.i_height = height;
    param.i_csp = X264_CSP_NV12;
    param.i_bitdepth = 8;
    param.i_log_level = X264_LOG_ERROR;
    for (int i = 6; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) return 64;
        *value++ = 0;
        if (x264_param_parse(&param, argv[i], value) < 0) {
            fprintf(stderr, "%s = %s is refused\n", argv[i], value);
            return 1;
        }
    }
    x264_t *encoder = x264_encoder_open(&param);
    x264_picture_t picture, out;
    if (!encoder || x264_picture_alloc(&picture, X264_CSP_NV12, width, height) < 0) return 1;
    for (int frame = 0; frame < frames; frame++) {
        for (int plane = 0; plane < 2; plane++)
            for (int y = 0; y < height >> plane; y++)
                if (fread(picture.img.plane[plane] + y * picture.img.i_stride[plane], width, 1, stdin) != 1) return 1;
        char wanted[16];
        snprintf(wanted, sizeof wanted, ",%d,", frame);
        picture.i_type = strstr(argv[5], wanted) ? X264_TYPE_IDR : X264_TYPE_AUTO;
        picture.i_pts = frame;
        x264_nal_t *nals;
        int count;
        int bytes = x264_encoder_encode(encoder, &nals, &count, &picture, &out);
        if (bytes <= 0) return 1;
        uint32_t length = bytes;
        fwrite(&length, 4, 1, stdout);
        fwrite(nals[0].p_payload, bytes, 1, stdout);
    }
    x264_picture_clean(&picture);
    x264_encoder_close(encoder);
    return fflush(stdout) != 0;
}
