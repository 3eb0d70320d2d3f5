/* The loop of the design, section 8 ("8K at 120 frames per second in real time"), as a program: it takes the place of
 * kernel C beside running kernels A, B and D, with its two functions between the kernels made of this library's.
 *
 *   cc seed_8k_loop.c $(pkg-config --cflags --libs quick_sync_core) -o seed_8k_loop
 *   ./seed_8k_loop INSTANCE [WIDTH HEIGHT FPS BITRATE [FRAMES [KEY=VALUE...]]]
 *
 * WIDTH HEIGHT FPS BITRATE are the design's 7680 4320 120 240000000 (bit/s) where none are given; they have to be those
 * of the frames in the ring. FRAMES 0: until SIGTERM. KEY=VALUE is what the other kernels were told with --set.
 */
#include <quick_sync_core.h>
#include <stdio.h>
#include <stdlib.h>

static QSVRing *ring;

/* The next frame of kernel B, where it lies in shared memory; NULL when it is time to end. */
static const qsv_frame *capture_kernel_get_frame(void) {
  static qsv_frame frame;
  int code;
  do {
    code = qsv_capture_get_frame(ring, &frame, 1000);
  } while (code == QSV_TIMEOUT);
  if (code < QSV_OK) fprintf(stderr, "%s: %s\n", qsv_error_name(code), qsv_last_error(NULL));
  return code == QSV_OK ? &frame : NULL;
}

/* Hands an access unit to kernel D. The design's call has data and length alone; the unit says in addition which frame
 * it was made of. */
static int network_kernel_send(const qsv_bitstream *bitstream) {
  int code = qsv_network_send(ring, bitstream);
  if (code < QSV_OK) fprintf(stderr, "%s: %s\n", qsv_error_name(code), qsv_last_error(NULL));
  return code;
}

static int number(char **argv, int argc, int index, int otherwise) {
  return index < argc ? atoi(argv[index]) : otherwise;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s INSTANCE [WIDTH HEIGHT FPS BITRATE [FRAMES [KEY=VALUE...]]]\n", argv[0]);
    return 64;
  }
  int width = number(argv, argc, 2, 7680), height = number(argv, argc, 3, 4320), fps = number(argv, argc, 4, 120);
  int bitrate = number(argv, argc, 5, 240000000), frames = number(argv, argc, 6, 0);
  qsv_ring_config config = {0};
  config.struct_size = sizeof config;
  config.settings = (const char *const *)(argv + 7);
  config.settings_count = argc > 7 ? (uint32_t)(argc - 7) : 0;
  ring = qsv_capture_attach(argv[1], NULL, &config);
  if (ring == NULL) {
    fprintf(stderr, "%s: %s\n", qsv_error_name(qsv_last_error_code(NULL)), qsv_last_error(NULL));
    return 1;
  }

  QSVEncoderContext *ctx = qsv_init_encoder(width, height, fps, bitrate, 1);
  if (ctx == NULL) {
    fprintf(stderr, "%s: %s\n", qsv_error_name(qsv_last_error_code(NULL)), qsv_last_error(NULL));
    qsv_capture_detach(ring);
    return 1;
  }
  fprintf(stderr, "encoder %s: %s\n", qsv_backend(ctx), qsv_path(ctx));

  int frame_counter = 0, failed = 0;
  while (frames == 0 || frame_counter < frames) {
    const qsv_frame *raw_frame = capture_kernel_get_frame();
    if (raw_frame == NULL) break;
    qsv_bitstream bitstream = {0};

    int code = qsv_encode_frame(ctx, raw_frame, &bitstream);
    if (code == QSV_ERR_DEVICE_LOST) {
      /* The design's last resort; the frame is encoded once more, as an IDR. */
      code = qsv_emergency_reset(ctx);
      if (code >= QSV_OK) code = qsv_encode_frame(ctx, raw_frame, &bitstream);
    }
    if (code < QSV_OK) {
      fprintf(stderr, "%s: %s\n", qsv_error_name(code), qsv_last_error(ctx));
      failed = 1;
      break;
    }

    /* To the networking kernel. */
    if (code == QSV_OK && network_kernel_send(&bitstream) < QSV_OK) {
      failed = 1;
      break;
    }

    frame_counter++;
    if (frame_counter % 1000 == 0) {
      qsv_flush_frames(ctx); /* Drain internal buffers: what comes out waits for qsv_next_access_unit. */
      while (qsv_next_access_unit(ctx, &bitstream, 0) == QSV_OK) network_kernel_send(&bitstream);
    }
  }
  fprintf(stderr, "%d frames, %llu bytes of pixels copied\n", frame_counter,
          (unsigned long long)qsv_copied_bytes(ctx));
  qsv_destroy_encoder(ctx);
  return qsv_capture_detach(ring) < QSV_OK || failed;
}
