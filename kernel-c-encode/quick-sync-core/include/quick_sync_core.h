/*
 * quick_sync_core.h - kernel C of the quad-kernel streaming system as a C library.
 *
 * Written by scripts/cbindgen from the Rust source. Do not edit.
 *
 * Threads: a context (or ring) is used by one thread at a time; a second one gets QSV_ERR_BUSY and does no harm.
 * Different contexts may be used by different threads freely. qsv_request_idr, qsv_error_name and qsv_version may be
 * called from any thread at any time. qsv_capture_attach binds its thread to cpus: call it before other threads start.
 *
 * Handles: QSVEncoderContext* and QSVRing* are numbers, not addresses. One that was destroyed, also twice, or that
 * never was, gives QSV_ERR_INVALID_HANDLE.
 *
 * Memory: the library never frees what the application gave it, and the application frees nothing it got from here.
 * Pointers that the library gave out are valid until the next call with the same context that gives out another.
 *
 * Errors: int functions return QSV_OK (0), a code above 0 with something to know, or a code below 0; functions that
 * return a pointer return NULL. qsv_last_error has the text. Bitrates are in bit/s.
 *
 * oneVPL: with QSV_WITH_VPL defined, or <vpl/mfxvideo.h> included before, the DMA callbacks and qsv_encode_surface have
 * the types of oneVPL, so that the callbacks fit into a mfxFrameAllocator. Without it they are opaque, and nothing of
 * oneVPL is needed to compile.
 */

#ifndef QUICK_SYNC_CORE_H
#define QUICK_SYNC_CORE_H

#include <stddef.h>
#include <stdint.h>
#if defined(QSV_WITH_VPL) || defined(__MFXVIDEO_H__)
#include <vpl/mfxvideo.h>
typedef mfxStatus qsv_mfx_status;
typedef mfxHDL qsv_mfx_handle;
typedef mfxMemId qsv_mfx_memory;
typedef mfxFrameSurface1 qsv_mfx_surface;
typedef mfxFrameData qsv_mfx_data;
typedef mfxFrameAllocRequest qsv_mfx_request;
typedef mfxFrameAllocResponse qsv_mfx_response;
#else
typedef int qsv_mfx_status;
typedef void *qsv_mfx_handle;
typedef void *qsv_mfx_memory;
typedef struct qsv_mfx_surface qsv_mfx_surface;
typedef struct qsv_mfx_data qsv_mfx_data;
typedef struct qsv_mfx_request qsv_mfx_request;
typedef struct qsv_mfx_response qsv_mfx_response;
#endif

/*
 Done.
 */
#define QSV_OK 0

/*
 The frame was taken; its access unit comes out with a later call. The memory of the frame has to stay as it is
 until then.
 */
#define QSV_MORE_INPUT 1

/*
 Done, but with simpler settings or another encoder than asked for: qsv_last_error says which.
 */
#define QSV_FALLBACK 2

/*
 Nothing came within the time given.
 */
#define QSV_TIMEOUT 3

/*
 The process was asked to end (SIGTERM, SIGINT) or a successor is ready to take its place: detach.
 */
#define QSV_STOPPED 4

/*
 A pointer that is needed is NULL.
 */
#define QSV_ERR_NULL_POINTER (-1)

/*
 The context was destroyed, detached, or never was.
 */
#define QSV_ERR_INVALID_HANDLE (-2)

/*
 A value is out of its range; the text names it and what is allowed.
 */
#define QSV_ERR_INVALID_ARGUMENT (-3)

/*
 What is asked for does not exist here: an encoder without this feature, a surface in video memory.
 */
#define QSV_ERR_UNSUPPORTED (-4)

/*
 A device or library is missing; the text says which and how to get it.
 */
#define QSV_ERR_UNAVAILABLE (-5)

/*
 The caller's buffer is too small: data_length says what is needed. The access unit is kept for the next call.
 */
#define QSV_ERR_NOT_ENOUGH_BUFFER (-6)

/*
 Another thread is within a call with this context, or the place in the ring is another process's.
 */
#define QSV_ERR_BUSY (-7)

/*
 Too much waits to be taken out: fetch access units, or send those of the frames taken from the ring.
 */
#define QSV_ERR_PENDING (-8)

/*
 The frame is of another size or pixel format than the context: make a new context.
 */
#define QSV_ERR_FORMAT_CHANGED (-9)

/*
 The encoder's library failed, or made a stream that cannot be handed on.
 */
#define QSV_ERR_LIBRARY (-10)

/*
 The device or its driver is lost: call qsv_emergency_reset, then give the frame again that was refused.
 */
#define QSV_ERR_DEVICE_LOST (-11)

/*
 A ring or a shared object cannot be used; the text says which and why.
 */
#define QSV_ERR_RING (-12)

/*
 A successor has taken the place of this process: detach, and do not come back.
 */
#define QSV_ERR_FENCED (-13)

/*
 The access unit does not fit a buffer of the ring; the next one has to be an IDR.
 */
#define QSV_ERR_TOO_LARGE (-14)

/*
 A defect of this library. Destroy the context; the text says what happened.
 */
#define QSV_ERR_INTERNAL (-99)

/*
 Most surfaces an encoder works with, and most access units that wait in a context.
 */
#define QSV_MAX_SURFACES 64

/*
 H.264.
 */
#define QSV_CODEC_H264 0

/*
 HEVC.
 */
#define QSV_CODEC_HEVC 1

/*
 AV1.
 */
#define QSV_CODEC_AV1 2

/*
 4:2:0, 8 bit: a plane of Y and one of Cb and Cr by turns.
 */
#define QSV_PIXEL_NV12 0

/*
 4:2:0, 10 bit in the high bits of little-endian 16-bit words; planes as NV12.
 */
#define QSV_PIXEL_P010 1

/*
 Constant bitrate.
 */
#define QSV_RATE_CBR 0

/*
 Variable bitrate: bitrate_bps on average, up to max_bitrate_bps for a while.
 */
#define QSV_RATE_VBR 1

/*
 Constant quantiser: qp.
 */
#define QSV_RATE_CQP 2

/*
 Constant quality: qp is its figure.
 */
#define QSV_RATE_ICQ 3

/*
 As the profile has it.
 */
#define QSV_ENTROPY_DEFAULT 0

/*
 Variable-length codes.
 */
#define QSV_ENTROPY_CAVLC 1

/*
 Arithmetic coding.
 */
#define QSV_ENTROPY_CABAC 2

/*
 gop_frames: an IDR every two seconds.
 */
#define QSV_GOP_DEFAULT 0

/*
 gop_frames: an IDR only first and on request.
 */
#define QSV_GOP_INFINITE (-1)

/*
 qsv_frame.flags: this very frame becomes an IDR.
 */
#define QSV_FRAME_FORCE_IDR 1

/*
 qsv_bitstream.flags: decoding can begin here.
 */
#define QSV_UNIT_IDR 1

/*
 qsv_bitstream.flags: the parameter sets are in it.
 */
#define QSV_UNIT_CONFIG 2

/*
 qsv_bitstream.flags: nothing was made of this frame (rate control, or a reset after which no encoder takes it);
 data_length is 0.
 */
#define QSV_UNIT_LEFT_OUT 4

/*
 qsv_ring_config.flags: where another process is kernel C, wait until it ends or yields. Without it that is
 QSV_ERR_BUSY.
 */
#define QSV_ATTACH_WAIT 1

/*
 An encoder. What it holds is no address and means nothing outside this library.
 */
typedef struct QSVEncoderContext QSVEncoderContext;

/*
 The place of kernel C between the rings of a running instance.
 */
typedef struct QSVRing QSVRing;

/*
 What an encoder is opened with. Set everything to 0, then struct_size, then what is wanted: 0 is the default of
 every other field. Text is copied; NULL is the default.
 */
typedef struct qsv_config {
  /*
   sizeof(qsv_config) of the program: later versions add fields at the end.
   */
  uint32_t struct_size;
  /*
   QSV_CODEC_...
   */
  uint32_t codec;
  /*
   Width, pixels; even.
   */
  int32_t width;
  /*
   Height, pixels; even.
   */
  int32_t height;
  /*
   Frames per second, numerator.
   */
  uint32_t fps_num;
  /*
   Frames per second, denominator; 0 is 1.
   */
  uint32_t fps_den;
  /*
   QSV_PIXEL_...
   */
  uint32_t pixel_format;
  /*
   QSV_RATE_...
   */
  uint32_t rate_control;
  /*
   Target bitrate, bit/s (not kbit/s); rounded up to whole kbit/s.
   */
  uint64_t bitrate_bps;
  /*
   Largest bitrate that will be asked for, bit/s; 0: four times bitrate_bps. The level is chosen by it.
   */
  uint64_t max_bitrate_bps;
  /*
   Quantiser or quality where no bitrate is held: 0 to 51, for AV1 0 to 255.
   */
  uint32_t qp;
  /*
   Size of the rate control's buffer, milliseconds at the bitrate; 0: 500.
   */
  uint32_t vbv_ms;
  /*
   Frames from IDR to IDR, QSV_GOP_DEFAULT, or QSV_GOP_INFINITE; 1: every frame.
   */
  int32_t gop_frames;
  /*
   Not 0: no frame is held back (no B frames, no look-ahead).
   */
  int32_t low_latency;
  /*
   Slices of a picture; 0: one for each thread.
   */
  uint32_t slices;
  /*
   Threads of a software encoder; 0: one for each processor of this process, 4 at most.
   */
  uint32_t threads;
  /*
   Tile columns of HEVC and AV1; 0: the encoder's choice.
   */
  uint32_t tile_columns;
  /*
   Tile rows of HEVC and AV1; 0: the encoder's choice.
   */
  uint32_t tile_rows;
  /*
   Not 0: a moving band of intra blocks renews the picture between IDRs.
   */
  uint32_t intra_refresh;
  /*
   Frames a hardware encoder works on at a time; 0: 1.
   */
  uint32_t async_depth;
  /*
   H.264: QSV_ENTROPY_...
   */
  uint32_t entropy;
  /*
   IDRs that the stream had before, for one that goes on: consecutive IDRs differ in idr_pic_id.
   */
  uint32_t idr_count;
  /*
   "auto" (NULL), "vpl", "vaapi", "x264", "x265", "svtav1", "openh264".
   */
  const char *backend;
  /*
   Render node, as "/dev/dri/renderD128"; NULL: the first that can.
   */
  const char *device;
  /*
   "fast" (NULL), "medium", "quality", a name of x264 and x265, or the backend's number.
   */
  const char *preset;
  /*
   H.264: "baseline", "main", "high"; NULL: the encoder's choice.
   */
  const char *profile;
  /*
   As "5.1"; NULL: the lowest that carries size, rate and bitrate.
   */
  const char *level;
  /*
   ITU-T H.273 code points of the frames; all four 0: BT.709, limited range.
   */
  uint8_t colour_matrix;
  /*
   Colour primaries.
   */
  uint8_t colour_primaries;
  /*
   Transfer characteristics.
   */
  uint8_t colour_transfer;
  /*
   Not 0: full range.
   */
  uint8_t colour_full_range;
  /*
   0.
   */
  uint32_t reserved[7];
} qsv_config;

/*
 A frame: where its planes lie. Set everything to 0 first. The pixels are read, never written, and only during
 qsv_encode_frame; after QSV_MORE_INPUT until the frame's access unit is out, whatever other calls return meanwhile: a
 reset reads them again.

 Planes that begin on multiples of 256 bytes, with strides that are multiples of 256, one right behind the other, are
 encoded where they lie. Others are copied once.
 */
typedef struct qsv_frame {
  /*
   First byte of each plane. stride x rows bytes of each are read: rows are the height, of chroma half of it.
   */
  const uint8_t *data[4];
  /*
   Bytes from a row to the next, of each plane.
   */
  uint32_t stride[4];
  /*
   Width in pixels; 0: the context's.
   */
  uint32_t width;
  /*
   Height in pixels; 0: the context's.
   */
  uint32_t height;
  /*
   QSV_PIXEL_... of the context.
   */
  uint32_t pixel_format;
  /*
   QSV_FRAME_...
   */
  uint32_t flags;
  /*
   Identity, above that of the frame before; 0: one more than that.
   */
  uint64_t frame_id;
  /*
   Presentation time, ns; 0: one frame interval after the frame before.
   */
  uint64_t pts_ns;
  /*
   Bitrate asked for from this frame on, bit/s; 0: as it is. Where it cannot be had the old one stays, see
   qsv_bitstream.bitrate_bps.
   */
  uint64_t bitrate_bps;
  /*
   0.
   */
  uint64_t reserved[4];
} qsv_frame;

/*
 An access unit: H.264 and HEVC as Annex B with a delimiter in front, AV1 as one temporal unit of OBUs. Set
 everything to 0 first.
 */
typedef struct qsv_bitstream {
  /*
   Its bytes. With max_length 0 the library's own memory, valid until the next call with this context; else
   the caller's buffer of max_length bytes.
   */
  uint8_t *data;
  /*
   How many; 0: none came out, or see QSV_UNIT_LEFT_OUT.
   */
  size_t data_length;
  /*
   Size of the caller's buffer; 0: lend me yours.
   */
  size_t max_length;
  /*
   The frame it was made of.
   */
  uint64_t frame_id;
  /*
   Presentation time of that frame, ns.
   */
  uint64_t pts_ns;
  /*
   Bitrate in force, bit/s.
   */
  uint64_t bitrate_bps;
  /*
   QSV_CODEC_...
   */
  uint32_t codec;
  /*
   QSV_UNIT_...
   */
  uint32_t flags;
  /*
   Access units that wait behind this one: qsv_next_access_unit.
   */
  uint32_t pending;
  /*
   0.
   */
  uint32_t reserved[7];
} qsv_bitstream;

/*
 Gets access units as soon as they are there, in order, from within the call that brought them out. `unit` and its
 bytes are valid until it returns. It must return, and must not call this library with the same context
 (QSV_ERR_BUSY), qsv_request_idr excepted.
 */
typedef void (*qsv_output_callback)(void *user, const struct qsv_bitstream *unit);

/*
 How to become kernel C of an instance. NULL in its place is all defaults.
 */
typedef struct qsv_ring_config {
  /*
   sizeof(qsv_ring_config).
   */
  uint32_t struct_size;
  /*
   QSV_ATTACH_...
   */
  uint32_t flags;
  /*
   The instance's configuration file, the same as the other kernels have; NULL: all keys have their defaults.
   */
  const char *config_file;
  /*
   KEY=VALUE over the file, as the kernels' --set.
   */
  const char *const *settings;
  /*
   How many.
   */
  uint32_t settings_count;
  /*
   0.
   */
  uint32_t reserved[7];
} qsv_ring_config;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 mfxFrameAllocator.Alloc, with the context as `pthis`. Without a device: MFX_ERR_UNSUPPORTED, and qsv_last_error
 says why.

 The caller promises:
 `request` and `response` point at such structures.
 */
qsv_mfx_status qsv_frame_alloc(qsv_mfx_handle pthis, qsv_mfx_request *request, qsv_mfx_response *response);

/*
 mfxFrameAllocator.Lock.

 The caller promises:
 `ptr` points at such a structure.
 */
qsv_mfx_status qsv_frame_lock(qsv_mfx_handle pthis, qsv_mfx_memory mid, qsv_mfx_data *ptr);

/*
 mfxFrameAllocator.Unlock.

 The caller promises:
 `ptr` points at such a structure.
 */
qsv_mfx_status qsv_frame_unlock(qsv_mfx_handle pthis, qsv_mfx_memory mid, qsv_mfx_data *ptr);

/*
 mfxFrameAllocator.GetHDL.

 The caller promises:
 `handle` points at a mfxHDL.
 */
qsv_mfx_status qsv_frame_get_handle(qsv_mfx_handle pthis, qsv_mfx_memory mid, qsv_mfx_handle *handle);

/*
 mfxFrameAllocator.Free.

 The caller promises:
 `response` points at such a structure, filled in by qsv_frame_alloc.
 */
qsv_mfx_status qsv_frame_free(qsv_mfx_handle pthis, qsv_mfx_response *response);

/*
 Opens an encoder for H.264 in NV12, BT.709 limited, with constant bitrate, as the best backend of this machine makes
 it: an Intel device, else a software encoder. `bitrate` is in bit/s. `low_latency` not 0: no frame is held back.

 Returns NULL on error: qsv_last_error_code(NULL) and qsv_last_error(NULL) say which.
 */
struct QSVEncoderContext *qsv_init_encoder(int width, int height, int fps, int bitrate, int low_latency);

/*
 Opens an encoder as `config` says. Returns NULL on error: qsv_last_error_code(NULL) and qsv_last_error(NULL) say
 which.

 The caller promises:
 `config` points at struct_size bytes, its text at text that ends in a NUL.
 */
struct QSVEncoderContext *qsv_init_encoder_ex(const struct qsv_config *config);

/*
 Encodes a frame and gives out the oldest access unit that is ready; with low_latency that is the frame's own.

 QSV_OK: `out` is filled. QSV_MORE_INPUT: the frame was taken and its access unit comes later.
 QSV_ERR_NOT_ENOUGH_BUFFER: the frame was taken, and its access unit waits for qsv_next_access_unit. Any other error:
 the frame was not taken. With an output callback, access units go there; `out` may be NULL and stays empty.

 The caller promises:
 `frame` and `out` point at such structures, the planes at as many bytes as the frame says, `out->data` at
 max_length bytes.
 */
int qsv_encode_frame(struct QSVEncoderContext *ctx, const struct qsv_frame *frame, struct qsv_bitstream *out);

/*
 Gives out the oldest access unit that waits, after a flush, a buffer that was too small, or QSV_MORE_INPUT; waits up
 to `timeout_ms` for a device that is still at work (0 or less: not at all). QSV_OK, or QSV_MORE_INPUT when there is
 none.

 The caller promises:
 `out` as for qsv_encode_frame.
 */
int qsv_next_access_unit(struct QSVEncoderContext *ctx, struct qsv_bitstream *out, int timeout_ms);

/*
 Access units go to `callback` from now on, with `user`, also those that wait already; NULL: to `out` again.

 The caller promises:
 `callback` is a function of that type that may be called, with `user`, in every call with this context until it is
 replaced or the context destroyed.
 */
int qsv_set_output_callback(struct QSVEncoderContext *ctx, qsv_output_callback callback, void *user);

/*
 Brings out every frame that is still inside the encoder. The access units go to the output callback; without one
 they wait, and qsv_next_access_unit or the next qsv_encode_frame gives them out. The stream may go on afterwards.
 */
int qsv_flush_frames(struct QSVEncoderContext *ctx);

/*
 Closes the encoder, then its session, then its display, and frees everything that was lent. NULL does nothing. A
 context that was destroyed already is left alone and remembered as QSV_ERR_INVALID_HANDLE. Frames still inside are
 lost: flush first.
 */
void qsv_destroy_encoder(struct QSVEncoderContext *ctx);

/*
 The next frame becomes an IDR. May be called from any thread at any time.
 */
int qsv_request_idr(struct QSVEncoderContext *ctx);

/*
 Changes the target bitrate from the next frame on, in bit/s, without an IDR where the encoder can.
 */
int qsv_set_bitrate(struct QSVEncoderContext *ctx, uint64_t bitrate_bps);

/*
 After QSV_ERR_DEVICE_LOST, or when the encoder hangs in the application's eyes: resets the device. Where that fails, and
 for an encoder without a device, closes the encoder and opens it anew. The stream goes on with an IDR. Frames that
 were inside stay inside and come out in their order, the first as that IDR: with the next calls, or into the callback.

 QSV_OK: as it was. QSV_FALLBACK: with simpler settings, with another backend where that was left to choose, or with
 frames that no encoder takes as QSV_UNIT_LEFT_OUT; qsv_last_error says which. An error: nothing could be opened, and
 the frames inside wait; it may be called again.
 */
int qsv_emergency_reset(struct QSVEncoderContext *ctx);

/*
 Text of the last error: of this context, or with NULL of this thread (after an init that failed, or for a ring). ""
 when there was none. Valid until this thread has called qsv_last_error, qsv_backend or qsv_path eight times more.
 */
const char *qsv_last_error(const struct QSVEncoderContext *ctx);

/*
 Code of that error; QSV_OK when there was none.
 */
int qsv_last_error_code(const struct QSVEncoderContext *ctx);

/*
 Name of the backend in use, as "openh264"; "" without one. Valid as qsv_last_error's text.
 */
const char *qsv_backend(const struct QSVEncoderContext *ctx);

/*
 How pixels reach the encoder, for people. Valid as qsv_last_error's text.
 */
const char *qsv_path(const struct QSVEncoderContext *ctx);

/*
 Bytes of pixels that were copied since the context was opened: 0 when every frame was encoded where it lay and the
 encoder reads it there.
 */
uint64_t qsv_copied_bytes(const struct QSVEncoderContext *ctx);

/*
 The name of a code as it stands in this header; "unknown" for any other number. Never NULL, never freed.
 */
const char *qsv_error_name(int code);

/*
 Version of this library, "MAJOR.MINOR.PATCH". Never NULL, never freed.
 */
const char *qsv_version(void);

/*
 Makes this process kernel C of a running instance: it takes frames from the ring of kernel B, or of whatever
 encode.input names, and gives access units to kernel D. `instance` NULL is "default"; `kernel` NULL is "encode.main",
 another is an instance the configuration has (as "encode.web", which may miss frames). `config` NULL: all keys have
 their defaults; it has to be the configuration that the other kernels have.

 Waits for the ring upstream to appear. The process is a kernel from then on: its thread is bound to the kernel's
 cpus, SIGTERM and SIGINT end waits with QSV_STOPPED, and it has to come back to this library at least every
 hang_timeout_ms (2 s), or the supervisor takes it for dead.

 Returns NULL on error: qsv_last_error_code(NULL) and qsv_last_error(NULL) say which. QSV_ERR_BUSY: another process
 is this kernel.

 The caller promises:
 Text ends in a NUL; `config` points at struct_size bytes, its settings at settings_count texts.
 */
struct QSVRing *qsv_capture_attach(const char *instance, const char *kernel, const struct qsv_ring_config *config);

/*
 Fills in size, rate, pixel format and colour of the ring's frames, and the codec, bitrate, low_latency and idr_count
 that the instance asks for; leaves the rest of `config` as it is. Waits for the first frame.

 QSV_OK, QSV_TIMEOUT, QSV_STOPPED or an error.

 The caller promises:
 `config` points at a qsv_config of this version, with struct_size set.
 */
int qsv_capture_describe(struct QSVRing *ring, struct qsv_config *config, int timeout_ms);

/*
 The next frame, where it lies in shared memory: to be encoded and then answered with qsv_network_send or
 qsv_network_skip. Until then its pixels stay as they are. Requests from downstream are in it: QSV_FRAME_FORCE_IDR, and
 bitrate_bps where another bitrate is asked for. `timeout_ms` negative: wait for ever.

 QSV_OK, QSV_TIMEOUT, QSV_STOPPED or an error.

 The caller promises:
 `frame` points at such a structure.
 */
int qsv_capture_get_frame(struct QSVRing *ring, struct qsv_frame *frame, int timeout_ms);

/*
 Publishes an access unit for kernel D, as qsv_encode_frame gave it out, or of an encoder of the program's own:
 data, data_length, codec and frame_id (0: the oldest frame not answered) are read, and bitrate_bps answers a wish for
 another bitrate. data_length 0 means that nothing was made of the frame. Older frames that were not answered are
 published as left out. Waits for room in the ring.

 QSV_OK, QSV_STOPPED or an error. QSV_ERR_TOO_LARGE: it was left out; the next frame asks for an IDR.

 The caller promises:
 `unit` points at such a structure, its data at data_length bytes.
 */
int qsv_network_send(struct QSVRing *ring, const struct qsv_bitstream *unit);

/*
 Publishes that nothing is made of a frame (0: of the oldest not answered), so that no id is missing downstream.
 */
int qsv_network_skip(struct QSVRing *ring, uint64_t frame_id);

/*
 Leaves the place of kernel C. Frames not answered stay owed to a successor; one that waits takes over, and this call
 returns when it is at work. NULL does nothing. QSV_ERR_BUSY: another thread is in a call with this ring, which stays.
 */
int qsv_capture_detach(struct QSVRing *ring);

/*
 Encodes a surface of oneVPL in system memory, or one that its runtime maps (FrameInterface). Otherwise as
 qsv_encode_frame; `ctrl_flags` are QSV_FRAME_... flags. The visible part is the surface's crop rectangle. TimeStamp
 counts 1/90000 s; MFX_TIMESTAMP_UNKNOWN: one interval after the frame before.

 A surface of an external allocator, in video memory, is QSV_ERR_UNSUPPORTED: lock it first (qsv_frame_lock).

 The caller promises:
 `surface` and `out` point at such structures, the surface at as many bytes as it says.
 */
int qsv_encode_surface(struct QSVEncoderContext *ctx,
                       qsv_mfx_surface *surface,
                       uint32_t ctrl_flags,
                       struct qsv_bitstream *out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* QUICK_SYNC_CORE_H */
