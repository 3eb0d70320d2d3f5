/* What the C test programs share: checks that say where they failed, and frames with something moving in them. */
#ifndef CHECK_H
#define CHECK_H

#include <quick_sync_core.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__, #condition, \
              qsv_last_error(NULL)); \
      exit(1); \
    } \
  } while (0)

/* A call that returns exactly this code. */
#define CHECK_CODE(call, code) \
  do { \
    int got_ = (call); \
    if (got_ != (code)) { \
      fprintf(stderr, "%s:%d: %s is %s, not %s: %s\n", __FILE__, __LINE__, #call, qsv_error_name(got_), #code, \
              qsv_last_error(NULL)); \
      exit(1); \
    } \
  } while (0)

/* A call after which the last error of the thread has this text in it. */
#define CHECK_TEXT(text) \
  do { \
    if (strstr(qsv_last_error(NULL), (text)) == NULL) { \
      fprintf(stderr, "%s:%d: \"%s\" has no \"%s\"\n", __FILE__, __LINE__, qsv_last_error(NULL), (text)); \
      exit(1); \
    } \
  } while (0)

enum { WIDTH = 320, HEIGHT = 180 };

/* An NV12 frame: planes apart from each other, or one behind the other as the rings have them. */
typedef struct picture {
  uint8_t *memory;
  qsv_frame frame;
} picture;

static inline picture new_picture(uint32_t stride, int in_one_piece) {
  picture made = {0};
  size_t luma = (size_t)stride * HEIGHT, chroma = (size_t)stride * HEIGHT / 2;
  /* A page between the planes where they are to be apart. */
  size_t gap = in_one_piece ? 0 : 5000;
  size_t total = (luma + gap + chroma + 255) / 256 * 256;
  made.memory = aligned_alloc(256, total);
  if (made.memory == NULL) exit(2);
  memset(made.memory, 128, total);
  made.frame.data[0] = made.memory;
  made.frame.data[1] = made.memory + luma + gap;
  made.frame.stride[0] = made.frame.stride[1] = stride;
  return made;
}

/* Gradients that travel, and noise that costs bits. */
static inline void paint(picture *to, uint32_t index) {
  uint8_t *luma = to->memory;
  uint8_t *chroma = (uint8_t *)to->frame.data[1];
  uint32_t noise = index * 2654435761u + 1;
  for (uint32_t y = 0; y < HEIGHT; y++) {
    for (uint32_t x = 0; x < WIDTH; x++) {
      noise = noise * 1664525u + 1013904223u;
      luma[(size_t)y * to->frame.stride[0] + x] = (uint8_t)(40 + (x + 2 * y + 3 * index) % 150 + (noise >> 27));
    }
  }
  for (uint32_t y = 0; y < HEIGHT / 2; y++) {
    for (uint32_t x = 0; x < WIDTH; x++) {
      chroma[(size_t)y * to->frame.stride[1] + x] = (uint8_t)(100 + (x + y + index) % 60);
    }
  }
}

static inline qsv_config small_config(void) {
  qsv_config config;
  memset(&config, 0, sizeof config);
  config.struct_size = sizeof config;
  config.width = WIDTH;
  config.height = HEIGHT;
  config.fps_num = 60;
  config.bitrate_bps = 2000000;
  config.gop_frames = QSV_GOP_INFINITE;
  config.low_latency = 1;
  config.threads = 1;
  return config;
}

#endif
