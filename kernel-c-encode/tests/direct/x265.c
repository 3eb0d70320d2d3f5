/* x265 used directly, through its own header and nothing of ours: NV12 or P010 frames on standard input, access units
 * behind their length on standard output.
 *
 *   x265 WIDTH HEIGHT FRAMES BITS PRESET IDRS [NAME=VALUE]...       IDRS: frame numbers, each followed by a comma */
#include "apart.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x265.h>

int main(int argc, char **argv) {
    if (argc < 7) return 64;
    int width = atoi(argv[1]), height = atoi(argv[2]), frames = atoi(argv[3]), bits = atoi(argv[4]);
    int bytes = bits > 8 ? 2 : 1;
    const x265_api *api = x265_api_get(bits);
    if (!api) return 1;
    x265_param *param = api->param_alloc();
    if (api->param_default_preset(param, argv[5], "zerolatency") < 0) return 1;
    param->sourceWidth = width;
    param->sourceHeight = height;
    param->logLevel = X265_LOG_ERROR;
    for (int i = 7; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) return 64;
        *value++ = 0;
        if (api->param_parse(param, argv[i], value) < 0) {
            fprintf(stderr, "%s = %s is refused\n", argv[i], value);
            return 1;
        }
    }
    x265_encoder *encoder = api->encoder_open(param);
    if (!encoder) return 1;
    x265_picture *picture = api->picture_alloc();
    api->picture_init(param, picture);
    size_t luma = (size_t)width * height;
    uint8_t *frame = malloc(luma * 3 / 2 * bytes), *planes = malloc(luma * 3 / 2 * bytes);
    for (int number = 0; number < frames; number++) {
        if (fread(frame, luma * 3 / 2 * bytes, 1, stdin) != 1) return 1;
        apart(frame, planes, luma, bytes);
        char wanted[16];
        snprintf(wanted, sizeof wanted, ",%d,", number);
        picture->sliceType = strstr(argv[6], wanted) ? X265_TYPE_IDR : X265_TYPE_AUTO;
        picture->pts = number;
        picture->bitDepth = bits;
        picture->planes[0] = planes;
        picture->planes[1] = planes + luma * bytes;
        picture->planes[2] = planes + luma * bytes * 5 / 4;
        picture->stride[0] = width * bytes;
        picture->stride[1] = picture->stride[2] = width / 2 * bytes;
        x265_nal *nals;
        uint32_t count, length = 0;
        if (api->encoder_encode(encoder, &nals, &count, picture, NULL) != 1) return 1;
        for (uint32_t i = 0; i < count; i++) length += nals[i].sizeBytes;
        fwrite(&length, 4, 1, stdout);
        for (uint32_t i = 0; i < count; i++) fwrite(nals[i].payload, nals[i].sizeBytes, 1, stdout);
    }
    api->encoder_close(encoder);
    return fflush(stdout) != 0;
}
