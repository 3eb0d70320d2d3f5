/* oneVPL's structures: surfaces as input, and the DMA callbacks in a mfxFrameAllocator. */
#define QSV_WITH_VPL
#include "check.h"

static int maps, unmaps;
static uint8_t *mapped_luma, *mapped_chroma;

static mfxStatus map(mfxFrameSurface1 *surface, mfxU32 flags) {
  CHECK(flags == MFX_MAP_READ);
  surface->Data.Y = mapped_luma;
  surface->Data.UV = mapped_chroma;
  maps++;
  return MFX_ERR_NONE;
}

static mfxStatus unmap(mfxFrameSurface1 *surface) {
  surface->Data.Y = surface->Data.UV = NULL;
  unmaps++;
  return MFX_ERR_NONE;
}

int main(void) {
  QSVEncoderContext *ctx = qsv_init_encoder(WIDTH, HEIGHT, 60, 2000000, 1);
  CHECK(ctx != NULL);
  picture picture = new_picture(512, 1);
  qsv_bitstream unit = {0}, same = {0};
  mfxFrameSurface1 surface = {0};
  surface.Info.FourCC = MFX_FOURCC_NV12;
  surface.Info.Width = 512;
  surface.Info.Height = HEIGHT;
  surface.Info.CropW = WIDTH;
  surface.Info.CropH = HEIGHT;
  surface.Data.Y = picture.memory;
  surface.Data.UV = (uint8_t *)picture.frame.data[1];
  surface.Data.PitchLow = 512;
  surface.Data.TimeStamp = 90000;

  /* To the byte what the same planes give. */
  QSVEncoderContext *planes = qsv_init_encoder(WIDTH, HEIGHT, 60, 2000000, 1);
  for (uint32_t index = 0; index < 5; index++) {
    paint(&picture, index);
    CHECK_CODE(qsv_encode_surface(ctx, &surface, index == 3 ? QSV_FRAME_FORCE_IDR : 0, &unit), QSV_OK);
    picture.frame.flags = index == 3 ? QSV_FRAME_FORCE_IDR : 0;
    CHECK_CODE(qsv_encode_frame(planes, &picture.frame, &same), QSV_OK);
    CHECK(unit.data_length == same.data_length && memcmp(unit.data, same.data, unit.data_length) == 0);
    CHECK(unit.pts_ns == 1000000000 && !(unit.flags & QSV_UNIT_IDR) == (index != 0 && index != 3));
  }

  /* A surface of the runtime's own is mapped for the call and no longer. */
  mfxFrameSurfaceInterface functions = {0};
  functions.Map = map;
  functions.Unmap = unmap;
  mapped_luma = surface.Data.Y;
  mapped_chroma = surface.Data.UV;
  surface.Data.Y = surface.Data.UV = NULL;
  CHECK_CODE(qsv_encode_surface(ctx, &surface, 0, &unit), QSV_ERR_UNSUPPORTED);
  CHECK_TEXT("qsv_frame_lock");
  surface.FrameInterface = &functions;
  CHECK_CODE(qsv_encode_surface(ctx, &surface, 0, &unit), QSV_OK);
  CHECK(maps == 1 && unmaps == 1 && surface.Data.Y == NULL);
  surface.FrameInterface = NULL;
  surface.Data.Y = mapped_luma;
  surface.Data.UV = mapped_chroma;

  /* What does not fit is refused by name. */
  CHECK_CODE(qsv_encode_surface(ctx, NULL, 0, &unit), QSV_ERR_NULL_POINTER);
  surface.Info.CropX = 400;
  CHECK_CODE(qsv_encode_surface(ctx, &surface, 0, &unit), QSV_ERR_INVALID_ARGUMENT);
  CHECK_TEXT("The crop = 320x180+400+0");
  surface.Info.CropX = 0;
  surface.Data.PitchLow = 256;
  CHECK_CODE(qsv_encode_surface(ctx, &surface, 0, &unit), QSV_ERR_INVALID_ARGUMENT);
  CHECK_TEXT("Data.Pitch = 256");
  surface.Data.PitchLow = 512;
  surface.Info.FourCC = MFX_FOURCC_YUY2;
  CHECK_CODE(qsv_encode_surface(ctx, &surface, 0, &unit), QSV_ERR_INVALID_ARGUMENT);
  surface.Info.FourCC = MFX_FOURCC_P010;
  surface.Info.Shift = 1;
  surface.Info.Width = 2 * WIDTH;
  surface.Info.CropW = 2 * WIDTH;
  CHECK_CODE(qsv_encode_surface(ctx, &surface, 0, &unit), QSV_ERR_FORMAT_CHANGED);

  /* The signatures are those of a mfxFrameAllocator. */
  mfxFrameAllocator allocator = {0};
  allocator.pthis = ctx;
  allocator.Alloc = qsv_frame_alloc;
  allocator.Lock = qsv_frame_lock;
  allocator.Unlock = qsv_frame_unlock;
  allocator.GetHDL = qsv_frame_get_handle;
  allocator.Free = qsv_frame_free;
  mfxFrameAllocRequest request = {0};
  mfxFrameAllocResponse response = {0};
  request.Info = surface.Info;
  request.Type = MFX_MEMTYPE_VIDEO_MEMORY_ENCODER_TARGET | MFX_MEMTYPE_FROM_ENCODE | MFX_MEMTYPE_EXTERNAL_FRAME;
  request.NumFrameSuggested = request.NumFrameMin = 4;
  mfxStatus status = allocator.Alloc(allocator.pthis, &request, &response);
  if (status == MFX_ERR_NONE) {
    mfxFrameData data = {0};
    CHECK(response.NumFrameActual >= 4);
    CHECK(allocator.Lock(allocator.pthis, response.mids[0], &data) == MFX_ERR_NONE && data.Y != NULL);
    CHECK(allocator.Unlock(allocator.pthis, response.mids[0], &data) == MFX_ERR_NONE);
    CHECK(allocator.Free(allocator.pthis, &response) == MFX_ERR_NONE);
  } else {
    /* No device: that is said. */
    CHECK(status == MFX_ERR_UNSUPPORTED);
    CHECK(strlen(qsv_last_error(ctx)) > 20 && qsv_last_error_code(ctx) == QSV_ERR_UNAVAILABLE);
  }
  CHECK(allocator.Alloc(NULL, &request, &response) == MFX_ERR_NULL_PTR);
  CHECK(allocator.Alloc(ctx, NULL, &response) == MFX_ERR_NULL_PTR);
  qsv_destroy_encoder(ctx);
  qsv_destroy_encoder(planes);
  CHECK(allocator.Lock(ctx, NULL, &(mfxFrameData){0}) == MFX_ERR_INVALID_HANDLE);
  free(picture.memory);
  puts("surface: done");
  return 0;
}
