/* The DMA callbacks on a device: surfaces are made, mapped, encoded from and freed. */
#define QSV_WITH_VPL
#include "check.h"

enum { SURFACES = 4 };

int main(void) {
  qsv_config config = small_config();
  config.device = "/dev/null";
  QSVEncoderContext *ctx = qsv_init_encoder_ex(&config);
  CHECK(ctx != NULL);
  mfxFrameAllocRequest request = {0};
  mfxFrameAllocResponse response = {0};
  request.Info.FourCC = MFX_FOURCC_NV12;
  request.Info.ChromaFormat = MFX_CHROMAFORMAT_YUV420;
  request.Info.Width = 320;
  request.Info.Height = 192;
  request.Info.CropW = WIDTH;
  request.Info.CropH = HEIGHT;
  request.Type = MFX_MEMTYPE_VIDEO_MEMORY_ENCODER_TARGET | MFX_MEMTYPE_FROM_ENCODE | MFX_MEMTYPE_EXTERNAL_FRAME;
  request.NumFrameSuggested = request.NumFrameMin = SURFACES;
  CHECK(qsv_frame_alloc(ctx, &request, &response) == MFX_ERR_NONE);
  CHECK(response.NumFrameActual >= SURFACES && response.mids != NULL);

  /* What is written into a mapped surface is there when it is mapped again, and each is one of its own. */
  mfxFrameData data = {0};
  for (int i = 0; i < SURFACES; i++) {
    CHECK(qsv_frame_lock(ctx, response.mids[i], &data) == MFX_ERR_NONE);
    CHECK(data.Y != NULL && data.UV != NULL && data.PitchLow >= WIDTH);
    for (int y = 0; y < HEIGHT; y++) memset(data.Y + (size_t)y * data.PitchLow, 20 + 40 * i, WIDTH);
    for (int y = 0; y < HEIGHT / 2; y++) memset(data.UV + (size_t)y * data.PitchLow, 128, WIDTH);
    CHECK(qsv_frame_unlock(ctx, response.mids[i], &data) == MFX_ERR_NONE);
  }
  mfxHDL handles[SURFACES];
  for (int i = 0; i < SURFACES; i++) {
    CHECK(qsv_frame_get_handle(ctx, response.mids[i], &handles[i]) == MFX_ERR_NONE && handles[i] != NULL);
    for (int before = 0; before < i; before++) CHECK(handles[before] != handles[i]);
  }

  /* A mapped surface is encoded. */
  qsv_bitstream unit = {0};
  for (int i = 0; i < SURFACES; i++) {
    mfxFrameSurface1 surface = {0};
    surface.Info = request.Info;
    CHECK(qsv_frame_lock(ctx, response.mids[i], &surface.Data) == MFX_ERR_NONE);
    CHECK(surface.Data.Y[100 * surface.Data.PitchLow + 100] == 20 + 40 * i);
    CHECK_CODE(qsv_encode_surface(ctx, &surface, 0, &unit), QSV_OK);
    CHECK(unit.data_length > 0 && !(unit.flags & QSV_UNIT_IDR) == (i != 0));
    CHECK(qsv_frame_unlock(ctx, response.mids[i], &surface.Data) == MFX_ERR_NONE);
  }
  CHECK(qsv_frame_lock(ctx, (mfxMemId)(uintptr_t)999999, &data) != MFX_ERR_NONE);
  CHECK(qsv_frame_free(ctx, &response) == MFX_ERR_NONE);
  qsv_destroy_encoder(ctx);
  puts("video memory: done");
  return 0;
}
