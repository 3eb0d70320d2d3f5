/* Sixty frames: IDRs at the frames they were asked for, another bitrate, flush, reset. Writes the stream to a file.
 *
 *   stream FILE in-place|copied|callback
 */
#include "check.h"

enum { FRAMES = 60, FORCED = 20, REQUESTED = 40, SLOWER = 30, RESET = 50 };

/* The design's structures, as this compiler lays them out, are those of the library. */
_Static_assert(sizeof(qsv_config) == 168, "qsv_config");
_Static_assert(sizeof(qsv_frame) == 120, "qsv_frame");
_Static_assert(sizeof(qsv_bitstream) == 88, "qsv_bitstream");
_Static_assert(sizeof(qsv_ring_config) == 56, "qsv_ring_config");

typedef struct taker {
  FILE *file;
  QSVEncoderContext *ctx;
  unsigned units;
  unsigned idrs;
  size_t bytes_before, bytes_after;
} taker;

static void take(taker *to, const qsv_bitstream *unit) {
  uint64_t index = unit->frame_id - 1;
  int idr = (unit->flags & QSV_UNIT_IDR) != 0;
  CHECK(unit->data_length > 0 && unit->data != NULL && unit->codec == QSV_CODEC_H264);
  CHECK(index == to->units);
  CHECK(unit->pts_ns == index * 1000000000u / 60);
  CHECK(idr == (index == 0 || index == FORCED || index == REQUESTED || index == RESET));
  /* Annex B with the delimiter in front; an IDR carries its parameter sets. */
  CHECK(memcmp(unit->data, "\0\0\0\1\x09", 5) == 0);
  CHECK(!idr || (unit->flags & QSV_UNIT_CONFIG));
  CHECK(fwrite(unit->data, 1, unit->data_length, to->file) == unit->data_length);
  /* Without the IDRs, which cost what they cost. */
  if (index > 0 && index < SLOWER && index != FORCED) to->bytes_before += unit->data_length;
  if (index > SLOWER && index != REQUESTED && index != RESET) to->bytes_after += unit->data_length;
  to->units++;
  to->idrs += (unsigned)idr;
}

static void called(void *user, const qsv_bitstream *unit) {
  taker *to = user;
  /* From within a call the context is in use; a wish for an IDR is the exception. */
  CHECK_CODE(qsv_set_bitrate(to->ctx, 1000000), QSV_ERR_BUSY);
  if (unit->frame_id == REQUESTED) CHECK_CODE(qsv_request_idr(to->ctx), QSV_OK);
  take(to, unit);
}

int main(int argc, char **argv) {
  CHECK(argc == 3);
  int callback = strcmp(argv[2], "callback") == 0, copied = strcmp(argv[2], "copied") == 0;
  qsv_config config = small_config();
  config.backend = getenv("QSV_TEST_BACKEND");
  QSVEncoderContext *ctx = qsv_init_encoder_ex(&config);
  CHECK(ctx != NULL);
  /* Several texts at a time are good, as arguments of one printf. */
  const char *backend = qsv_backend(ctx), *path = qsv_path(ctx), *nothing = qsv_last_error(ctx);
  CHECK(strlen(backend) > 0 && strlen(path) > 0 && strcmp(backend, path) != 0 && strcmp(nothing, "") == 0);
  taker to = {fopen(argv[1], "wb"), ctx, 0, 0, 0, 0};
  CHECK(to.file != NULL);
  if (callback) CHECK_CODE(qsv_set_output_callback(ctx, called, &to), QSV_OK);

  /* 320 is no multiple of 256, and planes apart from each other are not what encoders take. */
  picture picture = copied ? new_picture(WIDTH, 0) : new_picture(512, 1);
  qsv_bitstream unit = {0};
  for (unsigned index = 0; index < FRAMES; index++) {
    paint(&picture, index);
    picture.frame.flags = index == FORCED ? QSV_FRAME_FORCE_IDR : 0;
    if (index == REQUESTED && !callback) CHECK_CODE(qsv_request_idr(ctx), QSV_OK);
    if (index == SLOWER) CHECK_CODE(qsv_set_bitrate(ctx, 500000), QSV_OK);
    if (index == RESET) CHECK_CODE(qsv_emergency_reset(ctx), QSV_OK);
    CHECK_CODE(qsv_encode_frame(ctx, &picture.frame, callback ? NULL : &unit), QSV_OK);
    if (!callback) {
      CHECK(unit.bitrate_bps == (index < SLOWER ? 2000000 : 500000));
      take(&to, &unit);
    }
    if (index == 10) CHECK_CODE(qsv_flush_frames(ctx), QSV_OK);
  }
  CHECK_CODE(qsv_flush_frames(ctx), QSV_OK);
  if (!callback) CHECK_CODE(qsv_next_access_unit(ctx, &unit, 0), QSV_MORE_INPUT);
  CHECK(to.units == FRAMES && to.idrs == 4);
  /* A quarter of the bitrate for the second half: at most half of the bytes. */
  CHECK(to.bytes_after * 2 < to.bytes_before);
  /* 320 x 180 x 3 / 2 bytes a frame, here, and what the encoder takes apart for itself is its own. */
  uint64_t here = copied ? (uint64_t)FRAMES * WIDTH * HEIGHT * 3 / 2 : 0;
  CHECK(qsv_copied_bytes(ctx) >= here && (copied || qsv_copied_bytes(ctx) < (uint64_t)FRAMES * WIDTH * HEIGHT));
  CHECK(fclose(to.file) == 0);
  qsv_destroy_encoder(ctx);
  free(picture.memory);
  printf("%s: %u access units\n", argv[2], to.units);
  return 0;
}
