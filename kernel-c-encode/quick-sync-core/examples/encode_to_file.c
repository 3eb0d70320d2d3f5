/* Encodes two seconds of a moving picture into a file that every player shows.
 *
 *   cc encode_to_file.c $(pkg-config --cflags --libs quick_sync_core) -o encode_to_file
 *   ./encode_to_file out.h264 [FRAMES]
 */
#include <quick_sync_core.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTH = 640, HEIGHT = 360, FPS = 60, STRIDE = 768, BITRATE = 2000000 };

/* Where access units go: the first IDR, then whatever the encoder makes of each frame. */
static void write_unit(void *file, const qsv_bitstream *unit) {
  fwrite(unit->data, 1, unit->data_length, file);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s FILE [FRAMES]\n", argv[0]);
    return 64;
  }
  int frames = argc > 2 ? atoi(argv[2]) : 2 * FPS;
  FILE *file = fopen(argv[1], "wb");
  /* 256-aligned planes with strides of a multiple of 256 are encoded where they lie. */
  uint8_t *memory = aligned_alloc(256, STRIDE * HEIGHT * 3 / 2);
  QSVEncoderContext *ctx = qsv_init_encoder(WIDTH, HEIGHT, FPS, BITRATE, 1);
  if (file == NULL || memory == NULL || ctx == NULL) {
    fprintf(stderr, "cannot begin: %s\n", qsv_last_error(NULL));
    return 1;
  }
  fprintf(stderr, "encoder %s: %s\n", qsv_backend(ctx), qsv_path(ctx));
  qsv_set_output_callback(ctx, write_unit, file);

  qsv_frame frame = {0};
  frame.data[0] = memory;
  frame.data[1] = memory + STRIDE * HEIGHT;
  frame.stride[0] = frame.stride[1] = STRIDE;
  int code = QSV_OK;
  for (int index = 0; index < frames && code >= QSV_OK; index++) {
    for (int y = 0; y < HEIGHT; y++) {
      for (int x = 0; x < WIDTH; x++) memory[y * STRIDE + x] = (uint8_t)(16 + (x + y + 4 * index) % 220);
    }
    for (int y = 0; y < HEIGHT / 2; y++) {
      for (int x = 0; x < WIDTH; x++) memory[(HEIGHT + y) * STRIDE + x] = (uint8_t)(64 + (x / 4 + index) % 128);
    }
    code = qsv_encode_frame(ctx, &frame, NULL);
  }
  if (code >= QSV_OK) code = qsv_flush_frames(ctx);
  if (code < QSV_OK) fprintf(stderr, "%s: %s\n", qsv_error_name(code), qsv_last_error(ctx));
  qsv_destroy_encoder(ctx);
  printf("%d access units, %ld bytes\n", frames, ftell(file));
  fclose(file);
  free(memory);
  return code < QSV_OK;
}
