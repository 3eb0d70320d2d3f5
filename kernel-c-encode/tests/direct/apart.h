/* The interleaved chroma of NV12 and P010 taken apart, for libraries that take planes. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Luma stays; of chroma every other sample goes to one plane, the others to the next. Samples of two bytes move down. */
static void apart(const uint8_t *restrict frame, uint8_t *restrict planes, size_t luma, int bytes) {
    if (bytes == 1) {
        const uint8_t *pair = frame + luma;
        uint8_t *restrict cb = planes + luma, *restrict cr = planes + luma * 5 / 4;
        memcpy(planes, frame, luma);
        for (size_t i = 0; i < luma / 4; i++, pair += 2) cb[i] = pair[0], cr[i] = pair[1];
    } else {
        const uint16_t *from = (const uint16_t *)frame, *pair = from + luma;
        uint16_t *restrict y = (uint16_t *)planes, *restrict cb = y + luma, *restrict cr = y + luma * 5 / 4;
        for (size_t i = 0; i < luma; i++) y[i] = from[i] >> 6;
        for (size_t i = 0; i < luma / 4; i++, pair += 2) cb[i] = pair[0] >> 6, cr[i] = pair[1] >> 6;
    }
}
