/* Everything a program can do wrong: each is a code and a text, and never a crash. */
#include "check.h"
#include <pthread.h>

static void bad_openings(void) {
  CHECK(qsv_init_encoder(WIDTH + 1, HEIGHT, 60, 2000000, 1) == NULL);
  CHECK(qsv_last_error_code(NULL) == QSV_ERR_INVALID_ARGUMENT);
  CHECK_TEXT("321x180");
  CHECK(qsv_init_encoder(WIDTH, HEIGHT, 60, 0, 1) == NULL);
  CHECK_TEXT("The bitrate = 0 bit/s is not possible: allowed is 1 to 400000000 bit/s");
  CHECK(qsv_init_encoder(WIDTH, HEIGHT, 60, -5, 1) == NULL);
  CHECK_TEXT("-5 bit/s");
  CHECK(qsv_init_encoder(WIDTH, HEIGHT, 0, 2000000, 1) == NULL);
  CHECK(qsv_init_encoder(WIDTH, HEIGHT, -1, 2000000, 1) == NULL);
  CHECK(qsv_init_encoder(-WIDTH, HEIGHT, 60, 2000000, 1) == NULL);
  CHECK(qsv_init_encoder(2147483646, 2147483646, 60, 2000000, 1) == NULL);
  CHECK_TEXT("sides from 1 to 16384");
  CHECK(qsv_init_encoder_ex(NULL) == NULL);
  CHECK(qsv_last_error_code(NULL) == QSV_ERR_NULL_POINTER);
  qsv_config config = small_config();
  config.struct_size = 3;
  CHECK(qsv_init_encoder_ex(&config) == NULL);
  CHECK_TEXT("struct_size = 3");
  config = small_config();
  config.backend = "nvenc";
  CHECK(qsv_init_encoder_ex(&config) == NULL);
  CHECK_TEXT("nvenc");
  config = small_config();
  config.backend = "openh264";
  config.codec = QSV_CODEC_AV1;
  CHECK(qsv_init_encoder_ex(&config) == NULL);
  CHECK_TEXT("openh264");
}

static void bad_frames(QSVEncoderContext *ctx, picture *picture) {
  qsv_bitstream unit = {0};
  qsv_frame frame = picture->frame;
  CHECK_CODE(qsv_encode_frame(ctx, NULL, &unit), QSV_ERR_NULL_POINTER);
  CHECK_CODE(qsv_encode_frame(ctx, &frame, NULL), QSV_ERR_NULL_POINTER);
  frame.data[1] = NULL;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_NULL_POINTER);
  CHECK_TEXT("frame.data[1] is NULL");
  frame = picture->frame;
  frame.stride[0] = WIDTH - 1;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_INVALID_ARGUMENT);
  CHECK_TEXT("frame.stride[0] = 319");
  frame.stride[0] = 0xffffffff;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_INVALID_ARGUMENT);
  frame = picture->frame;
  frame.data[1] = (const uint8_t *)UINTPTR_MAX;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_INVALID_ARGUMENT);
  frame = picture->frame;
  frame.width = WIDTH + 2;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_FORMAT_CHANGED);
  frame = picture->frame;
  frame.pixel_format = QSV_PIXEL_P010;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_FORMAT_CHANGED);
  frame.pixel_format = 77;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_INVALID_ARGUMENT);
  frame = picture->frame;
  frame.flags = 0x80;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_INVALID_ARGUMENT);
  /* None of them was taken: the first that is right is the first of the stream. */
  CHECK_CODE(qsv_encode_frame(ctx, &picture->frame, &unit), QSV_OK);
  CHECK(unit.frame_id == 1 && (unit.flags & QSV_UNIT_IDR));
  frame = picture->frame;
  frame.frame_id = 1;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_INVALID_ARGUMENT);
  CHECK_TEXT("0 or above 1");
  CHECK(strcmp(qsv_last_error(ctx), "") != 0);
  CHECK(qsv_last_error_code(ctx) == QSV_ERR_INVALID_ARGUMENT);
  CHECK_CODE(qsv_set_bitrate(ctx, 0), QSV_ERR_INVALID_ARGUMENT);
  CHECK_CODE(qsv_set_bitrate(ctx, UINT64_MAX), QSV_ERR_INVALID_ARGUMENT);
  CHECK_TEXT("18446744073709551615 bit/s");
  /* A wish that cannot be fulfilled costs no frame. */
  frame.frame_id = 0;
  frame.bitrate_bps = UINT64_MAX;
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_OK);
  CHECK(unit.bitrate_bps == 2000000);
}

static void small_buffers(QSVEncoderContext *ctx, picture *picture) {
  uint8_t little[16], enough[1 << 16];
  qsv_bitstream unit = {0};
  unit.max_length = sizeof little;
  CHECK_CODE(qsv_encode_frame(ctx, &picture->frame, &unit), QSV_ERR_NULL_POINTER);
  unit.data = little;
  picture->frame.flags = QSV_FRAME_FORCE_IDR;
  CHECK_CODE(qsv_encode_frame(ctx, &picture->frame, &unit), QSV_ERR_NOT_ENOUGH_BUFFER);
  picture->frame.flags = 0;
  size_t needed = unit.data_length;
  CHECK(needed > sizeof little && needed <= sizeof enough);
  unit.data = enough;
  unit.max_length = sizeof enough;
  CHECK_CODE(qsv_next_access_unit(ctx, &unit, 0), QSV_OK);
  CHECK(unit.data == enough && unit.data_length == needed && (unit.flags & QSV_UNIT_IDR));
  /* Units that nobody takes: the context refuses frames before it grows without end. */
  unit.data = little;
  unit.max_length = 1;
  for (int index = 0; index < QSV_MAX_SURFACES; index++) {
    CHECK_CODE(qsv_encode_frame(ctx, &picture->frame, &unit), QSV_ERR_NOT_ENOUGH_BUFFER);
  }
  CHECK_CODE(qsv_encode_frame(ctx, &picture->frame, &unit), QSV_ERR_PENDING);
  unit.data = enough;
  unit.max_length = sizeof enough;
  for (unsigned index = 0; index < QSV_MAX_SURFACES; index++) {
    CHECK_CODE(qsv_next_access_unit(ctx, &unit, 0), QSV_OK);
    CHECK(unit.pending == QSV_MAX_SURFACES - 1 - index);
  }
  CHECK_CODE(qsv_next_access_unit(ctx, &unit, 0), QSV_MORE_INPUT);
}

static void handles(void) {
  qsv_bitstream unit = {0};
  qsv_frame frame = {0};
  QSVEncoderContext *ctx = qsv_init_encoder(WIDTH, HEIGHT, 60, 2000000, 1);
  CHECK(ctx != NULL);
  qsv_destroy_encoder(ctx);
  /* Twice: remembered, and nothing else. */
  qsv_destroy_encoder(ctx);
  CHECK(qsv_last_error_code(NULL) == QSV_ERR_INVALID_HANDLE);
  CHECK_TEXT("destroyed");
  qsv_destroy_encoder(NULL);
  CHECK_CODE(qsv_encode_frame(ctx, &frame, &unit), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_encode_frame(NULL, &frame, &unit), QSV_ERR_NULL_POINTER);
  CHECK_CODE(qsv_encode_frame((QSVEncoderContext *)&unit, &frame, &unit), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_flush_frames(ctx), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_request_idr(ctx), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_emergency_reset(ctx), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_next_access_unit(ctx, &unit, 0), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_set_output_callback(ctx, NULL, NULL), QSV_ERR_INVALID_HANDLE);
  CHECK(qsv_last_error_code(ctx) == QSV_ERR_INVALID_HANDLE && strcmp(qsv_backend(ctx), "") == 0);
  CHECK(qsv_copied_bytes(ctx) == 0);
  /* A ring is no encoder, and neither is what was never attached. */
  CHECK_CODE(qsv_capture_get_frame((QSVRing *)ctx, &frame, 0), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_network_send(NULL, &unit), QSV_ERR_NULL_POINTER);
  CHECK_CODE(qsv_network_skip((QSVRing *)&unit, 0), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_capture_detach(NULL), QSV_OK);
  CHECK_CODE(qsv_capture_detach((QSVRing *)&unit), QSV_ERR_INVALID_HANDLE);
  CHECK_CODE(qsv_capture_get_frame(NULL, &frame, 0), QSV_ERR_NULL_POINTER);
  CHECK_CODE(qsv_capture_describe(NULL, NULL, 0), QSV_ERR_NULL_POINTER);
  CHECK_TEXT("The ring is NULL");
  CHECK_CODE(qsv_network_skip(NULL, 0), QSV_ERR_NULL_POINTER);
  CHECK_CODE(qsv_encode_surface(ctx, NULL, 0, &unit), QSV_ERR_INVALID_HANDLE);
  CHECK(qsv_frame_alloc(NULL, NULL, NULL) != 0 && qsv_frame_lock(NULL, NULL, NULL) != 0);
  CHECK(qsv_frame_unlock(ctx, NULL, NULL) != 0 && qsv_frame_free(ctx, NULL) != 0);
  CHECK(qsv_frame_get_handle(ctx, NULL, NULL) != 0);
  qsv_ring_config ring_config = {0};
  ring_config.struct_size = 4;
  CHECK(qsv_capture_attach(NULL, NULL, &ring_config) == NULL);
  CHECK_TEXT("qsv_ring_config.struct_size = 4");
  ring_config.struct_size = sizeof ring_config;
  ring_config.settings_count = 1;
  CHECK(qsv_capture_attach(NULL, NULL, &ring_config) == NULL);
  CHECK_TEXT("settings is NULL");
  CHECK(qsv_capture_attach("a/b", NULL, NULL) == NULL);
  CHECK(qsv_last_error_code(NULL) == QSV_ERR_INVALID_ARGUMENT);
  CHECK(qsv_capture_attach(NULL, "net.main", NULL) == NULL);
  CHECK_TEXT("an encode kernel");
  CHECK(strcmp(qsv_error_name(-12345), "unknown") == 0 && strcmp(qsv_error_name(QSV_OK), "QSV_OK") == 0);
  CHECK(strchr(qsv_version(), '.') != NULL);
}

/* One context, two threads: whoever comes second is told so. */
static void *encode_much(void *ctx) {
  picture picture = new_picture(512, 1);
  qsv_bitstream unit = {0};
  uintptr_t done = 0;
  paint(&picture, 0);
  for (int index = 0; index < 20; index++) {
    int code = qsv_encode_frame(ctx, &picture.frame, &unit);
    CHECK(code == QSV_OK || code == QSV_ERR_BUSY || code == QSV_ERR_INVALID_HANDLE);
    done += code == QSV_OK;
    CHECK_CODE(code == QSV_ERR_INVALID_HANDLE ? QSV_OK : qsv_request_idr(ctx), QSV_OK);
  }
  free(picture.memory);
  return (void *)done;
}

static void threads(void) {
  /* An own context for each: both work. */
  pthread_t one, two;
  void *first, *second;
  QSVEncoderContext *ctx = qsv_init_encoder(WIDTH, HEIGHT, 60, 2000000, 1);
  QSVEncoderContext *other = qsv_init_encoder(WIDTH, HEIGHT, 60, 2000000, 1);
  CHECK(ctx != NULL && other != NULL && ctx != other);
  CHECK(pthread_create(&one, NULL, encode_much, ctx) == 0 && pthread_create(&two, NULL, encode_much, other) == 0);
  CHECK(pthread_join(one, &first) == 0 && pthread_join(two, &second) == 0);
  CHECK((uintptr_t)first == 20 && (uintptr_t)second == 20);
  /* The same for both. */
  CHECK(pthread_create(&one, NULL, encode_much, ctx) == 0 && pthread_create(&two, NULL, encode_much, ctx) == 0);
  CHECK(pthread_join(one, &first) == 0 && pthread_join(two, &second) == 0);
  CHECK((uintptr_t)first + (uintptr_t)second >= 20);
  qsv_destroy_encoder(ctx);
  qsv_destroy_encoder(other);
}

static QSVEncoderContext *left;

/* By now the library has nothing left of this thread's own: codes are right, texts may be empty. */
static void at_exit(void) {
  qsv_destroy_encoder(left);
  qsv_destroy_encoder(left);
  if (qsv_flush_frames(left) != QSV_ERR_INVALID_HANDLE || qsv_last_error(left) == NULL) _Exit(3);
  if (qsv_last_error(NULL) == NULL || qsv_init_encoder(0, 0, 0, 0, 0) != NULL) _Exit(4);
}

int main(void) {
  left = qsv_init_encoder(WIDTH, HEIGHT, 60, 2000000, 1);
  CHECK(left != NULL && atexit(at_exit) == 0);
  bad_openings();
  QSVEncoderContext *ctx = qsv_init_encoder(WIDTH, HEIGHT, 60, 2000000, 1);
  CHECK(ctx != NULL);
  CHECK(strcmp(qsv_last_error(ctx), "") == 0);
  picture picture = new_picture(512, 1);
  paint(&picture, 0);
  bad_frames(ctx, &picture);
  small_buffers(ctx, &picture);
  qsv_destroy_encoder(ctx);
  free(picture.memory);
  handles();
  threads();
  puts("misuse: refused");
  return 0;
}
