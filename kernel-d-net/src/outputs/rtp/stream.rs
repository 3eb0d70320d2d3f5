//! The RTP output of one kernel D: the sender with its session in shared memory, its description on disk, and
//! the kernel's loop around both.

use super::clock::Clock;
use super::keep::{SessionWords, keep_session};
use super::moving::Moving;
use super::open::{NewStream, open_stream};
use super::pacer::PacerConfig;
use super::payload_type::payload_type;
use super::sdp::SdpDescription;
use super::sender::{AccessUnit, RtpSender, SendEnd, SenderConfig};
use super::session::{Resume, SESSION_WORDS, Session};
use crate::au::AuView;
use crate::payload::PayloadSize;
use crate::transmit::Transmit;
use crate::transmit::outbox::{OUTBOX_WORDS, Outbox};
use crate::transmit::udp::{UdpConfig, UdpTransmit};
use kernel_host::config::{HostPort, Net, Rtp};
use kernel_host::exit::{Exit, Failure};
use kernel_host::kernel::{self, Kernel, LONGEST_SLEEP_NS};
use kernel_host::name::KernelName;
use kernel_host::patience::waiting;
use shm_protocol::clock::{monotonic_ns, realtime_offset_ns};
use shm_protocol::frame::{Codec, VideoFormat};
use shm_protocol::input::Taken;
use shm_protocol::lease::Lease;
use shm_protocol::names;
use shm_protocol::telemetry::Counter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What became of an access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on the wire.
    Out {
        /// When its last packet left, CLOCK_MONOTONIC, nanoseconds.
        last_packet_ns: u64,
    },
    /// A predecessor had sent it.
    Before,
    /// Asked to end in the middle of it: a successor goes on.
    Stopped,
}

/// An open RTP output.
pub struct RtpStream {
    sender: RtpSender<SessionWords, UdpTransmit>,
    destination: SocketAddr,
    configured: HostPort,
    moving: Moving,
    /// Something that the list of outputs says is no longer so.
    relist: bool,
    /// Codec of what was sent last, and the one before it.
    codec: Option<Codec>,
    codec_before: Option<Codec>,
    encode: KernelName,
    pacing: bool,
    paced: Option<(u32, u64)>,
    is_new: bool,
    sdp_path: PathBuf,
    described: Option<u64>,
    version: u64,
    send_calls: u64,
    /// When to look after the session's object again, CLOCK_MONOTONIC.
    next_look_ns: u64,
}

/// Waits for the sender's pacer while the kernel's heart beats.
struct KernelClock<'a> {
    kernel: &'a mut Kernel,
    failed: Option<Failure>,
}

impl Clock for KernelClock<'_> {
    fn now_ns(&mut self) -> u64 {
        monotonic_ns()
    }

    fn wait_until_ns(&mut self, until_ns: u64) -> bool {
        match self.kernel.turn() {
            Ok(true) => {}
            Ok(false) => return false,
            Err(failure) => {
                self.failed = Some(failure);
                return false;
            }
        }
        let now = monotonic_ns();
        super::clock::MonotonicClock.wait_until_ns(until_ns.min(now + LONGEST_SLEEP_NS))
    }
}

const DESTINATION_KEY: &str = "net.rtp.destination";

fn resolve(key: &str, address: &HostPort) -> Result<SocketAddr, Failure> {
    address.resolve().map_err(|error| {
        Failure::new(Exit::Config, format!("{key} = \"{}:{}\" cannot be resolved: {error}", address.host, address.port))
    })
}

impl RtpStream {
    /// Opens the output: goes on with the session of a predecessor, from its ports, or begins one.
    ///
    /// # Errors
    /// [`Failure`] when the destination cannot be resolved or the ports cannot be had.
    pub fn open(kernel: &Kernel, rtp: &Rtp, net: &Net, encode: &KernelName) -> Result<RtpStream, Failure> {
        let name = names::session(kernel.runtime.instance(), &kernel.name.to_string());
        let words = SessionWords(shm_protocol::words::Words::open(&name, SESSION_WORDS).map_err(kernel::object)?);
        // A resolver without an answer says so after tens of seconds: that is no hang. And a stream that runs has had an
        // address: without one for now it is tried again.
        let destination =
            waiting(kernel.patience().as_ref(), || resolve(DESTINATION_KEY, &rtp.destination)).map_err(|failure| {
                match Session::existing(&words) {
                    Some(_) => Failure { exit: Exit::Temporary, ..failure },
                    None => failure,
                }
            })?;
        let new =
            NewStream { payload_type: rtp.payload_type as u8, real_minus_monotonic_ns: realtime_offset_ns() as i64 };
        let udp = UdpConfig { interface: net.interface.clone(), ..UdpConfig::to(destination) };
        let payload_size = PayloadSize::new(rtp.payload_bytes).map_err(|error| Failure::new(Exit::Config, error))?;
        let kbps = kernel.config.encode(&encode.name).map_or(8000, |e| e.bitrate_kbps);
        let config = SenderConfig {
            payload_size,
            pacer: PacerConfig::new(rtp.pacing, kbps, FALLBACK_INTERVAL_NS),
            report_interval_ns: REPORT_INTERVAL_NS,
            keyframe_interval_ns: KEYFRAME_INTERVAL_NS,
        };
        let (mut sender, resume) = open_stream(words, new, &udp, &config, monotonic_ns())
            .map_err(|error| Failure::recover(error.recovery(), error))?;
        // An object of its own: the session keeps its layout, and a stream outlives an upgrade.
        let outbox =
            shm_protocol::words::Words::open(&format!("{name}.outbox"), OUTBOX_WORDS).map_err(kernel::object)?;
        if let Some(outbox) = Outbox::new(outbox) {
            sender.keep_outbox(outbox);
        }
        kernel.telemetry.set_path(sender.transmit().path());
        Ok(RtpStream {
            sender,
            destination,
            configured: rtp.destination.clone(),
            moving: Moving::default(),
            relist: false,
            codec: None,
            codec_before: None,
            encode: encode.clone(),
            pacing: rtp.pacing,
            paced: None,
            is_new: !matches!(resume, Resume::Resumed),
            sdp_path: kernel.runtime.sdp(&kernel.name),
            described: None,
            version: 0,
            send_calls: 0,
            next_look_ns: 0,
        })
    }

    /// Whether the stream begins here, rather than going on.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Where it goes, as a URL.
    pub fn url(&self) -> String {
        format!("rtp://{}", self.destination)
    }

    /// Where its description lies.
    pub fn sdp_path(&self) -> &Path {
        &self.sdp_path
    }

    /// Takes up changed live keys.
    pub fn reload(&mut self, kernel: &Kernel) {
        let Some(rtp) = kernel.config.net(&kernel.name.name).and_then(|net| net.rtp.clone()) else { return };
        self.paced = None;
        if rtp.destination == self.configured {
            self.moving.cancel();
        } else {
            self.moving
                .begin(&rtp.destination, |to| resolve(DESTINATION_KEY, to).map_err(|failure| failure.to_string()));
        }
    }

    /// Goes elsewhere, once it is known where that is.
    fn follow_destination(&mut self) {
        let Some((configured, resolved)) = self.moving.arrived() else { return };
        let moved =
            resolved.and_then(|to| self.sender.set_destination(to).map(|()| to).map_err(|error| error.to_string()));
        match moved {
            Ok(destination) => {
                tracing::info!(%destination, "The RTP stream goes elsewhere from now on");
                self.destination = destination;
                self.configured = configured;
                self.described = None;
                self.relist = true;
            }
            Err(error) => tracing::warn!(error, "The destination was not changed"),
        }
    }

    /// Whether it goes elsewhere or has another codec since this was asked last.
    pub fn changed(&mut self) -> bool {
        std::mem::take(&mut self.relist)
    }

    /// Codec of what was sent last.
    pub fn codec(&self) -> Option<Codec> {
        self.codec
    }

    /// What viewers have to know: that the codec changed under them.
    pub fn note(&self) -> Option<String> {
        let (before, now) = self.codec_before.zip(self.codec)?;
        let sdp = self.sdp_path.display();
        Some(format!("The codec changed from {} to {}: receivers open {sdp} anew", before.name(), now.name()))
    }

    /// Reads feedback and sends the report that is due. `true`: an IDR is wanted.
    pub fn poll(&mut self, now_ns: u64, lease: &Lease) -> bool {
        self.sender.poll_control(now_ns);
        self.follow_destination();
        if now_ns >= self.next_look_ns {
            self.next_look_ns = now_ns + SESSION_LOOK_NS;
            self.keep_session(lease);
        }
        self.sender.keyframe_request(now_ns).is_some()
    }

    /// Sees to it that a successor will find the session: an object that somebody removed or truncated is made anew
    /// with what this process knows of it, as long as `lease` is this process's.
    pub fn keep_session(&mut self, lease: &Lease) {
        keep_session(&mut self.sender, lease);
    }

    /// Sends one access unit, waiting for the pacer.
    ///
    /// # Errors
    /// [`Failure`] of the kernel's turn.
    pub fn send(
        &mut self,
        kernel: &mut Kernel,
        taken: &Taken,
        au: &AuView<'_>,
        (codec, format): (Codec, &VideoFormat),
    ) -> Result<Sent, Failure> {
        self.pace(kernel, format);
        let unit = AccessUnit {
            view: *au,
            key: (taken.head.key.id(), u64::from(taken.head.key.sub())),
            capture_ns: taken.head.capture_ns,
            codec,
        };
        let mut clock = KernelClock { kernel, failed: None };
        let end = self.sender.send(&unit, &mut clock);
        if let Some(failure) = clock.failed {
            return Err(failure);
        }
        let sent = match end {
            Ok(SendEnd::Done(sent)) => sent,
            Ok(SendEnd::AlreadyDone) => return Ok(Sent::Before),
            Ok(SendEnd::Stopped) => return Ok(Sent::Stopped),
            Err(error) => {
                // No packets can be made of it: the stream goes on with the next IDR.
                tracing::warn!(%error, frame_id = taken.head.key.id(), "An access unit could not be sent");
                kernel.telemetry.error();
                self.sender.request_keyframe(super::feedback::KeyframeReason::Joined);
                return Ok(Sent::Before);
            }
        };
        kernel.telemetry.add(Counter::Packets, u64::from(sent.packets));
        kernel.telemetry.add(Counter::Bytes, sent.bytes);
        kernel.telemetry.add(Counter::PacketsDropped, u64::from(sent.dropped));
        self.follow_codec(codec);
        self.describe(kernel, codec, format);
        Ok(Sent::Out { last_packet_ns: sent.last_packet_ns })
    }

    /// Takes note of another codec: same stream, another payload type. RTP has no way to tell receivers more than that
    /// without a signalling channel, so the log, the status and the description name the change.
    fn follow_codec(&mut self, codec: Codec) {
        if self.codec == Some(codec) {
            return;
        }
        self.codec_before = self.codec.replace(codec);
        self.relist = true;
        if let Some(before) = self.codec_before {
            tracing::warn!(
                from = before.name(),
                to = codec.name(),
                payload_type = payload_type(self.sender.session().constants().payload_type, codec),
                sdp = %self.sdp_path.display(),
                "The codec of the RTP stream changed; receivers that do not follow the new payload type have to open \
                 the session description anew"
            );
        }
    }

    /// Paces for the frame rate and bitrate in force.
    fn pace(&mut self, kernel: &Kernel, format: &VideoFormat) {
        let interval_ns = format.fps.interval_ns();
        if self.paced.is_some_and(|(_, known)| known == interval_ns) {
            return;
        }
        let kbps = kernel.config.encode(&self.encode.name).map_or(8000, |e| e.bitrate_kbps);
        self.sender.set_pacer(PacerConfig::new(self.pacing, kbps, interval_ns));
        self.paced = Some((kbps, interval_ns));
    }

    /// Writes the description when something in it changed.
    fn describe(&mut self, kernel: &Kernel, codec: Codec, format: &VideoFormat) {
        let calls = self.sender.transmit().stats().syscalls;
        kernel.telemetry.add(Counter::SendCalls, calls - self.send_calls);
        self.send_calls = calls;
        let version = self.sender.parameters().version();
        if self.described == Some(version) {
            return;
        }
        self.described = Some(version);
        self.version += 1;
        let constants = self.sender.session().constants();
        let kbps = kernel.config.encode(&self.encode.name).map(|e| e.bitrate_kbps);
        let text = SdpDescription {
            name: &format!("quad {}", kernel.runtime.instance()),
            session_id: u64::from(constants.ssrc),
            version: self.version,
            destination: self.destination,
            rtcp_port: self.destination.port().saturating_add(1),
            ttl: 1,
            payload_type: payload_type(constants.payload_type, codec),
            codec,
            codec_before: self.codec_before,
            fps: Some(format.fps),
            bitrate_kbps: kbps,
            parameter_sets: self.sender.parameters().get(),
            feedback: false,
            source: None,
        }
        .text();
        if let Err(error) = crate::files::replace(&self.sdp_path, &text) {
            tracing::warn!(%error, path = %self.sdp_path.display(), "The session description could not be written");
        }
    }
}

/// As often as a kernel looks after its rings.
const SESSION_LOOK_NS: u64 = Duration::from_secs(1).as_nanos() as u64;
/// Until the first access unit tells the rate.
const FALLBACK_INTERVAL_NS: u64 = 16_666_666;
/// A sender report a second: receivers synchronise by it, and it is below RFC 3550's 5 % at any video rate.
const REPORT_INTERVAL_NS: u64 = Duration::from_secs(1).as_nanos() as u64;
/// No more than two IDRs a second on request: more would cost every viewer for the sake of one.
const KEYFRAME_INTERVAL_NS: u64 = Duration::from_millis(500).as_nanos() as u64;
