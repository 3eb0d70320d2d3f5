//! Real streams of every codec through the RTP sender over the loopback into FFmpeg, which decodes them. In the middle
//! the sender is dropped and another one goes on with its session; what is decoded must not show it.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

mod common;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
};

use common::{FPS, Receiver, access_units, decode_file, description, free_port, make_stream, newer_ffmpeg, open, skip};
use kernel_d_net::{
    au::AuView,
    codecs::{av1::SequenceHeader, hevc::ProfileTierLevel},
    outputs::rtp::{
        clock::{Clock, MonotonicClock},
        parameters::Setup,
        sender::{AccessUnit, SendEnd, Step},
        session::{Resume, SESSION_WORDS},
    },
    transmit::Transmit,
};
use shm_protocol::frame::Codec;

const FRAMES: usize = 120;
/// The frame in whose middle the sender is replaced: a key frame, so that it has many packets.
const REPLACED_AT: usize = 60;
/// Frames sent behind the ones that are compared.
const EXTRA: usize = 20;

/// Whether the parameter sets are those of the codec, whole.
fn check_setup(setup: Setup<'_>, codec: Codec) {
    match setup {
        Setup::H264 { sps, pps } => assert_eq!((codec, sps[0] & 31, pps[0] & 31), (Codec::H264, 7, 8)),
        Setup::Hevc { vps, sps, pps } => {
            assert_eq!((codec, [vps, sps, pps].map(|nal| nal[0] >> 1)), (Codec::Hevc, [32, 33, 34]));
            let ptl = ProfileTierLevel::of_sps(sps).unwrap();
            assert_eq!((ptl.profile_space, ptl.high_tier, ptl.profile_idc), (0, false, 1), "Main profile and tier");
        }
        Setup::Av1 { sequence_header } => {
            let header = SequenceHeader::parse(sequence_header).unwrap();
            assert_eq!((codec, header.profile, header.bit_depth), (Codec::Av1, 0, 8));
        }
    }
}

fn every_frame_arrives(codec: Codec, ffmpeg: &Path, stream: &Path, folder: &Path) {
    let bytes = std::fs::read(stream).unwrap();
    let units = access_units(codec, &bytes);
    assert_eq!(units.len(), FRAMES);
    let expected = decode_file(ffmpeg, stream);
    assert_eq!(expected.len(), FRAMES);

    let memory: Vec<AtomicU64> = (0..SESSION_WORDS).map(|_| AtomicU64::new(0)).collect();
    let to = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (mut sender, how) = open(&memory, to);
    assert_eq!(how, Resume::Created);
    let identity = sender.session().constants().clone();
    let sdp = folder.join("stream.sdp");
    std::fs::write(&sdp, description(&sender, to, codec)).unwrap();
    let receiver = Receiver::start(ffmpeg, &sdp, to.port(), FRAMES);

    let mut clock = MonotonicClock;
    let start_ns = clock.now_ns();
    // FFmpeg knows a frame to be complete when later ones come: some of the first follow the last.
    for (index, bytes) in units.iter().chain(&units[..EXTRA]).enumerate() {
        let capture_ns = start_ns + index as u64 * 1_000_000_000 / FPS;
        clock.wait_until_ns(capture_ns);
        let au = AccessUnit { view: AuView::of(bytes), key: (index as u64 + 1, 0), capture_ns, codec };
        if index == REPLACED_AT {
            sender.begin(&au, clock.now_ns()).unwrap();
            let mut step = sender.step(&au, clock.now_ns()).unwrap();
            // On a busy machine this frame may be late, and the pacer still at the one before.
            while let Step::Wait { until_ns } = step {
                clock.wait_until_ns(until_ns);
                step = sender.step(&au, clock.now_ns()).unwrap();
            }
            assert_eq!(step, Step::Sent, "more than one batch");
            drop(sender);
            let (successor, how) = open(&memory, to);
            assert_eq!((how, successor.session().constants()), (Resume::Resumed, &identity));
            sender = successor;
        }
        let end = sender.send(&au, &mut clock).unwrap();
        assert!(matches!(end, SendEnd::Done(sent) if sent.dropped == 0), "{end:?}");
    }
    assert_eq!(sender.transmit().path(), "gso");
    assert_eq!((sender.session().totals().burned, sender.invalid_nals()), (0, 0));
    assert!(sender.rtcp().stats().reports_sent >= 1);
    check_setup(sender.parameters().get().unwrap(), codec);

    let (received, log) = receiver.finish();
    assert_eq!(received.len(), FRAMES, "{log}");
    assert_eq!(received, expected, "{log}");
    for complaint in ["missed", "bad cseq", "error", "corrupt"] {
        assert!(!log.contains(complaint), "{log}");
    }
}

#[test]
fn ffmpeg_decodes_every_frame_although_the_sender_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let ffmpeg = PathBuf::from("ffmpeg");
    let Some(stream) = make_stream(&ffmpeg, Codec::H264, FRAMES, folder.path()) else {
        return skip("rtp_to_ffmpeg: H.264", "ffmpeg with libx264 is not installed");
    };
    every_frame_arrives(Codec::H264, &ffmpeg, &stream, folder.path());
}

#[test]
fn ffmpeg_decodes_every_frame_of_hevc_although_the_sender_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let ffmpeg = PathBuf::from("ffmpeg");
    let Some(stream) = make_stream(&ffmpeg, Codec::Hevc, FRAMES, folder.path()) else {
        return skip("rtp_to_ffmpeg: HEVC", "ffmpeg with libx265 is not installed");
    };
    every_frame_arrives(Codec::Hevc, &ffmpeg, &stream, folder.path());
}

#[test]
fn ffmpeg_decodes_every_frame_of_av1_although_the_sender_is_replaced() {
    const TEST: &str = "rtp_to_ffmpeg: AV1";
    let folder = tempfile::tempdir().unwrap();
    let Some(ffmpeg) = newer_ffmpeg() else {
        return skip(TEST, "no FFmpeg 8 or newer, which knows AV1 over RTP (QUAD_FFMPEG names one)");
    };
    let Some(stream) = make_stream(&ffmpeg, Codec::Av1, FRAMES, folder.path()) else {
        return skip(TEST, "that FFmpeg has no libsvtav1");
    };
    every_frame_arrives(Codec::Av1, &ffmpeg, &stream, folder.path());
}
