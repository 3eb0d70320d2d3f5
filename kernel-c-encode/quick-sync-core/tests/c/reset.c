/* Frames inside a device are none the worse for a reset: one that is asked for, and one after the device was lost.
 *
 *   reset FILE asked|lost QSV_OK|QSV_FALLBACK
 */
#include "check.h"

enum { FRAMES = 20, DEPTH = 4, ASKED_AT = 10 };

typedef struct taker {
  FILE *file;
  unsigned units, idrs;
  uint64_t second_idr;
} taker;

/* Each frame once and in order, and each with its access unit. */
static void take(taker *to, const qsv_bitstream *unit) {
  to->units++;
  CHECK(unit->frame_id == to->units);
  CHECK(!(unit->flags & QSV_UNIT_LEFT_OUT) && unit->data_length > 0);
  if (unit->flags & QSV_UNIT_IDR) {
    to->idrs++;
    if (to->idrs == 2) to->second_idr = unit->frame_id;
  }
  CHECK(fwrite(unit->data, 1, unit->data_length, to->file) == unit->data_length);
}

int main(int argc, char **argv) {
  CHECK(argc == 4);
  int asked = strcmp(argv[2], "asked") == 0;
  qsv_config config = small_config();
  config.backend = "vpl";
  config.device = "/dev/null";
  config.low_latency = 0;
  config.async_depth = DEPTH;
  QSVEncoderContext *ctx = qsv_init_encoder_ex(&config);
  CHECK(ctx != NULL);
  taker to = {fopen(argv[1], "wb"), 0, 0, 0};
  CHECK(to.file != NULL);

  /* Frames that stay as they are until they are out: every other one is encoded where it lies, the rest is copied. */
  picture pictures[FRAMES];
  unsigned resets = 0, inside = 0;
  for (unsigned index = 0; index < FRAMES; index++) {
    picture *picture = &pictures[index];
    *picture = index % 2 == 0 ? new_picture(512, 1) : new_picture(WIDTH, 0);
    memset(picture->memory, (int)(40 + 8 * index), (size_t)picture->frame.stride[0] * HEIGHT);
    qsv_bitstream unit = {0};
    int again = asked && index == ASKED_AT, code = again ? QSV_OK : qsv_encode_frame(ctx, &picture->frame, &unit);
    if (code == QSV_ERR_DEVICE_LOST || again) {
      CHECK(asked || strstr(qsv_last_error(ctx), "lost its device") != NULL);
      /* What was done before the reset is out first. */
      inside = index - to.units;
      CHECK(inside >= 2);
      int reset = qsv_emergency_reset(ctx);
      resets++;
      if (strcmp(qsv_error_name(reset), argv[3]) != 0) {
        fprintf(stderr, "reset: %s: %s\n", qsv_error_name(reset), qsv_last_error(ctx));
        return 1;
      }
      code = qsv_encode_frame(ctx, &picture->frame, &unit);
    }
    CHECK(code == QSV_OK || code == QSV_MORE_INPUT);
    while (code == QSV_OK) {
      take(&to, &unit);
      if (unit.pending == 0) break;
      code = qsv_next_access_unit(ctx, &unit, 0);
    }
  }
  CHECK_CODE(qsv_flush_frames(ctx), QSV_OK);
  qsv_bitstream unit = {0};
  while (qsv_next_access_unit(ctx, &unit, 0) == QSV_OK) take(&to, &unit);
  CHECK(to.units == FRAMES && resets == 1 && to.idrs == 2);
  /* Not the frame after the reset but the oldest one inside: no more than so many before it. */
  printf("IDR again at frame %u, with %u inside\n", (unsigned)to.second_idr, inside);
  qsv_destroy_encoder(ctx);
  CHECK(fclose(to.file) == 0);
  for (unsigned index = 0; index < FRAMES; index++) free(pictures[index].memory);
  return 0;
}
